"""The provider API and the user API."""
