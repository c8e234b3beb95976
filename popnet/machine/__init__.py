"""Pure: the machine file, partition, boot parameters and the state machines."""
