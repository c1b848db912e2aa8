#pragma once
#include <stdbool.h>
#include <stdio.h>

/* Sec-WebSocket-Accept for the 24 characters of a Sec-WebSocket-Key. */
void websocket_accept(const char *key, char accept[29]);

/* Echoes frames until one closes the connection; a ping gets its pong. */
void websocket_echo(FILE *in, FILE *out);
