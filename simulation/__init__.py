"""Many virtual clients on one machine, with the code of the deployment."""
