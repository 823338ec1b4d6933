"""Generated protobuf messages of the wire format (`make proto`)."""
