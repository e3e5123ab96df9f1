"""Moving what the wire describes: transports, channels, directory, all-reduce."""
