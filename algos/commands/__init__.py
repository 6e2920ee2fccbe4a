"""The commands of ``llm-gym`` that need the trainers: thin, arguments in and text out."""
