/* The server's side of a websocket (RFC 6455) that echoes: the handshake's digest and the frames. */
#include "websocket.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CLOSE = 8, PING = 9, PONG = 10, OPCODE = 0x0F, MASKED = 0x80, FRAME_MAX = 16 << 20 };

static uint32_t rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

/* SHA-1 (RFC 3174) of a text of at most 119 bytes: two blocks are all that a handshake needs. */
static void sha1(const char *text, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t data[128] = {0};
    size_t length = strlen(text), blocks = length < 56 ? 1 : 2;
    memcpy(data, text, length);
    data[length] = 0x80;
    data[blocks * 64 - 2] = length * 8 >> 8;
    data[blocks * 64 - 1] = length * 8;
    for (const uint8_t *block = data; block < data + blocks * 64; block += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)block[4 * t] << 24 | block[4 * t + 1] << 16 | block[4 * t + 2] << 8 | block[4 * t + 3];
        for (int t = 16; t < 80; t++)
            w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
        for (int t = 0; t < 80; t++) {
            uint32_t f = t < 20   ? ((b & c) | (~b & d)) + 0x5A827999
                         : t < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                         : t < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                  : (b ^ c ^ d) + 0xCA62C1D6;
            uint32_t next = rotate(a, 5) + f + e + w[t];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - i % 4 * 8);
}

/* Base64 of a digest: 20 bytes are 27 digits and one `=`. */
static void base64(const uint8_t digest[20], char text[29])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t padded[21] = {0};
    memcpy(padded, digest, 20);
    for (int i = 0; i < 28; i++) {
        const uint8_t *group = padded + i / 4 * 3;
        uint32_t bits = group[0] << 16 | group[1] << 8 | group[2];
        text[i] = digits[bits >> (18 - i % 4 * 6) & 63];
    }
    text[27] = '=';
    text[28] = '\0';
}

void websocket_accept(const char *key, char accept[29])
{
    char text[128];
    uint8_t digest[20];
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, digest);
    base64(digest, accept);
}

static void put_number(size_t number, int bytes, FILE *out)
{
    while (bytes--)
        fputc(number >> 8 * bytes & 255, out);
}

static void put_frame(int first, const uint8_t *payload, size_t length, FILE *out)
{
    int bytes = length < 126 ? 0 : length < 1 << 16 ? 2 : 8;
    fputc(first, out);
    fputc(bytes == 0 ? (int)length : bytes == 2 ? 126 : 127, out);
    put_number(length, bytes, out);
    fwrite(payload, 1, length, out);
    fflush(out);
}

/* False after a close frame or an error. */
static bool echo_frame(FILE *in, FILE *out)
{
    int first = fgetc(in), second = fgetc(in), opcode = first & OPCODE;
    if (first == EOF || second == EOF || !(second & MASKED))
        return false;
    size_t length = second & 127;
    int bytes = length == 126 ? 2 : length == 127 ? 8 : 0;
    for (length = bytes ? 0 : length; bytes; bytes--)
        length = length << 8 | (fgetc(in) & 255);
    uint8_t mask[4], *payload = length <= FRAME_MAX ? malloc(length + 1) : NULL;
    bool whole = payload && fread(mask, 1, 4, in) == 4 && fread(payload, 1, length, in) == length;
    if (whole && opcode != PONG) {
        for (size_t i = 0; i < length; i++)
            payload[i] ^= mask[i % 4];
        put_frame(opcode == PING ? (first & ~OPCODE) | PONG : first, payload, length, out);
    }
    free(payload);
    return whole && opcode != CLOSE && !ferror(out);
}

void websocket_echo(FILE *in, FILE *out)
{
    while (echo_frame(in, out))
        ;
}
