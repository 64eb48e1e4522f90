"""What a worker answers when somebody asks: metrics, health and readiness."""
