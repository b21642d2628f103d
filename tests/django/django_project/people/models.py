"""A custom user model, and a model that refers to users."""

import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.db import models


class Manager(BaseUserManager):
    def create_user(self, email, password=None, **fields):
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email, password=None, **fields):
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


if settings.AUTH_USER_MODEL == "people.Person":  # beside Django's own user model, it would conflict

    class Person(AbstractUser):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)
        username = None
        email = models.EmailField(unique=True)
        phone = models.CharField(max_length=30)
        USERNAME_FIELD = "email"
        REQUIRED_FIELDS = ()
        objects = Manager()


class Order(models.Model):
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
