"""The FX market-data server: prices, alerts and history of currency pairs for Socket.IO clients."""
