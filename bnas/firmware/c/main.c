/* An example: reads images of $height x $width x $channels bytes from its input, and prints the class and logits of each. */
#include <stdio.h>

#include "$name.h"

int main(void) {
  static const char *const names[] = bnas_${name}_CLASS_NAMES;
  static uint8_t image[bnas_${name}_PIXELS];
  static uint32_t scratch[bnas_${name}_SCRATCH / 4];
  static float logits[bnas_${name}_CLASSES];
  while (fread(image, 1, sizeof image, stdin) == sizeof image) {
    int best = bnas_${name}_predict(image, scratch, logits);
    printf("%s", names[best]);
    for (int k = 0; k < bnas_${name}_CLASSES; ++k) printf(" %.9g", (double)logits[k]);
    printf("\n");
  }
  return 0;
}
