#pragma once
#include <stdbool.h>

/* Makes every address of `PREFIX/LENGTH@DEVICE` one of this machine's: a local route, which goes when the device goes. Needs
 * CAP_NET_ADMIN. False with errno set. */
bool answer_for(const char *text);
