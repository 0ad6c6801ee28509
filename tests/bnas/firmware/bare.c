/* Nothing but a call, for the bytes of a firmware without anything around it. */
#include <stdint.h>

#include "images.h"

const uint8_t *volatile image;
void *volatile scratch;
float *volatile logits;

int start(void) { return NETWORK(predict)(image, scratch, logits); }
