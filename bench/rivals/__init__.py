"""What keepalive's engine is measured beside."""
