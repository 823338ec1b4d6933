"""What releases cost: ε for a δ."""
