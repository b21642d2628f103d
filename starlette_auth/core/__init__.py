"""Foundations: exceptions, clock, text, signing, translation, templates and events. Imports no other sub-package."""
