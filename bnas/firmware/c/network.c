/* $title
 * Written by `bnas export-c`; $name.h says how to call it, bnas_runtime.h what the tables mean.
 */
#include "$name.h"

#define BNAS_USES ($uses)
#define BNAS_FIELD $field
#define BNAS_NUMBER $number
#define BNAS_BYTES $has_bytes
#include "bnas_runtime.h"

static const bnas_layer layers[] = {
$layers
};

static const bnas_word thresholds[] = {
$thresholds
};

static const bnas_word weights[] = {
$weights
};

static const BNAS_NUMBER numbers[] = {
$numbers
};

#if BNAS_BYTES
static const int8_t bytes[] = {
$whole
};
#endif

static const bnas_word scale_shift[] = {
$scale_shift
};

int bnas_${name}_predict(const uint8_t image[bnas_${name}_PIXELS], void *scratch, float logits[bnas_${name}_CLASSES]) {
  const bnas_parameters parameters = {thresholds, weights, 0, numbers, $bytes};
  return bnas_run(layers, parameters, scale_shift, (bnas_word *)scratch, image, logits);
}
