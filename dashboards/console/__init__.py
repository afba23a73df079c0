"""The console: a small web page on 127.0.0.1 to see every model, watch runs and start them."""
