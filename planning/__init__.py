"""From what somebody writes to the contract that sites are asked to approve."""
