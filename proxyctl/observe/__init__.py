"""What is the case: Docker's containers and events, the standing of targets. Reads, never decides."""
