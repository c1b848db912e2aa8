"""What people and machines see: log, metrics, API, page. All of it is fed by one object, the CycleReport."""
