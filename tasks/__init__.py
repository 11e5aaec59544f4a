"""What happens to an event: what a handler author imports, and the tasks that apply it."""
