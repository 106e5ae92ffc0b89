"""The front of a served model: the key, the chat page, thumbs, and the way to the engines."""
