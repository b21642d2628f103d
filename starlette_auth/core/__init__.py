"""The ground: exceptions, time, text, signing, translation, templates, events. Imports nothing else of ours."""
