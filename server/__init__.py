"""The Flower ServerApp, the aggregation service and the durable run."""
