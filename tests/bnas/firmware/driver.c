/* Networks by number: reads how many images there are of which, and the images; writes the answer and logits of each. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "networks.h"

int main(void) {
  uint32_t asked[2];
  while (fread(asked, sizeof asked, 1, stdin) == 1) {
    const struct network *network = &networks[asked[0]];
    uint8_t *image = malloc(network->pixels);
    void *scratch = malloc(network->scratch);
    float *logits = malloc(network->classes * sizeof *logits);
    if (!image || !scratch || !logits) return 2;
    for (uint32_t i = 0; i < network->scratch; ++i) ((uint8_t *)scratch)[i] = (uint8_t)(255 - i % 7);
    for (; asked[1]--;) {
      int32_t best;
      if (fread(image, network->pixels, 1, stdin) != 1) return 3;
      best = network->predict(image, scratch, logits);
      fwrite(&best, sizeof best, 1, stdout);
      fwrite(logits, sizeof *logits, network->classes, stdout);
    }
    free(image);
    free(scratch);
    free(logits);
  }
  return 0;
}
