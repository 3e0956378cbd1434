"""The serving engine and who holds the device it runs on."""
