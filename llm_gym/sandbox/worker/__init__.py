"""What runs inside the sandbox's warm server: standard library only, loaded without the rest of `llm_gym`."""
