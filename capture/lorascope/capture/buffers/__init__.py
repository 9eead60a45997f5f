"""From the device to the writer: copies, rows in memory, a queue bounded in bytes."""
