/* $title
 * $genotype
 * test error $error %, file $hash
 * Written by `bnas export-c`.
 */
#ifndef BNAS_NETWORK_${name}_H
#define BNAS_NETWORK_${name}_H

#include <stdint.h>

/* The image: [height][width][channels], values as in a picture; normalised inside, channel by channel:
 * $normalisation */
#define bnas_${name}_HEIGHT $height
#define bnas_${name}_WIDTH $width
#define bnas_${name}_CHANNELS $channels
#define bnas_${name}_PIXELS (bnas_${name}_HEIGHT * bnas_${name}_WIDTH * bnas_${name}_CHANNELS)

/* The answers, and an initialiser for an array of their names in UTF-8. */
#define bnas_${name}_CLASSES $classes
#define bnas_${name}_CLASS_NAMES \
  { \
$class_names \
  }

/* Bytes of working memory, which keep nothing from call to call, and bytes of constants. */
#define bnas_${name}_SCRATCH $scratch
#define bnas_${name}_CONSTANTS $constants

#ifdef __cplusplus
extern "C" {
#endif

/* The class of an image, from 0 on. `scratch` are bnas_${name}_SCRATCH bytes that begin at a multiple of 4; `logits`
 * are written, their largest is the answer. May be called from several threads at once with memory of their own. */
int bnas_${name}_predict(const uint8_t image[bnas_${name}_PIXELS], void *scratch, float logits[bnas_${name}_CLASSES]);

#ifdef __cplusplus
}
#endif

#endif
