#!/bin/sh
# Connects to the server and works for it until you stop it.
cd "$(dirname "$0")" && exec feddat deploy client .
