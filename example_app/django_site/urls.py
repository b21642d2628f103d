"""The URLs of the Django project: admin, login and home page."""

import os

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import include, path


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "home.html", {"starlette": os.environ.get("STARLETTE_URL", "")})


urlpatterns = [
    path("", home),
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
]
