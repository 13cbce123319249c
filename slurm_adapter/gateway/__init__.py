"""The HTTP gateway: UCloud's provider API, the user API, sessions and the endpoints for operators."""
