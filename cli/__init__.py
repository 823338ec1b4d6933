"""The command line: typer commands and rich output, no logic.

Commands import what they need when they are called: torch and Flower take seconds to load, and
`--help` needs neither.
"""
