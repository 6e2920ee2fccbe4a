"""What samples replies from the policy."""
