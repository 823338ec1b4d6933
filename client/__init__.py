"""The trusted site agent and the Flower relay that talks to it."""
