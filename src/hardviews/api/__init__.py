"""What Python calls: each verb's function, with the verb's options as keyword arguments."""
