"""The key of all tests, which must turn up nowhere."""

API_KEY = "xai-test-key-that-nobody-may-see"
