/* Layers of binary networks, one image at a time, in scratch memory that the caller gives; written by `bnas export-c`.
 *
 * NAME.c includes this after it has defined
 *   BNAS_USES    which layers the network has, a set of bits: the compiler leaves the others out;
 *   BNAS_FIELD   an unsigned type for sizes and places;
 *   BNAS_NUMBER  uint16_t for float16, or uint32_t for float32, as the bits of numbers are stored;
 *   BNAS_BYTES   1 if the classifier's weights are bytes with a scale for each class, else 0.
 *
 * Maps are float32 [channels][height][width]. Every operation on floats is rounded by itself and in a fixed order, so
 * results are the same on every processor: GCC needs -ffp-contract=off (or -std=c99), no compiler may use -ffast-math.
 */
#ifndef BNAS_RUNTIME_H
#define BNAS_RUNTIME_H

#include <stdint.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif
#ifdef __FAST_MATH__
#error "expected floats that are rounded as written, found -ffast-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "expected floats of 32 bits, found a wider evaluation (on x86: -msse2 -mfpmath=sse)"
#endif

enum { BNAS_PIXELS, BNAS_STEM, BNAS_BLOCK, BNAS_MAX, BNAS_AVG, BNAS_HALVE, BNAS_COPY, BNAS_ZERO, BNAS_CLASSIFY };

/* Whether a layer is of that kind; never, and known to the compiler, where the network has none. */
#define BNAS_IS(s, kind) ((BNAS_USES >> (kind)&1u) && (s)->op == (kind))

typedef union {
  uint32_t bits;
  float number;
} bnas_word;

/* A layer: what it does; the shape of the map that it reads, and channels of its own; the places (words of scratch) of
 * both maps and of its spare words; `shuffle` groups in which the channels lie that it reads. With `add` it adds to a
 * map that is there; a stem with `relu` cuts at 0. */
typedef struct {
  uint8_t op, kernel, stride, dilation, add, relu;
  BNAS_FIELD groups, shuffle, channels, height, width, made, source, out, spare;
} bnas_layer;

/* Parameters, in the order of the layers; each layer moves on past its own. */
typedef struct {
  const bnas_word *thresholds; /* of signs, by input channel */
  const bnas_word *weights;    /* binary ones, a bit each, without gaps: [made][kernel * kernel][channels / groups] */
  uint32_t weight;             /* the bit that comes next */
  const BNAS_NUMBER *numbers;
  const int8_t *bytes;
} bnas_parameters;

static inline float bnas_from_bits(uint32_t bits) {
  bnas_word word;
  word.bits = bits;
  return word.number;
}

/* A stored number, exactly. */
static inline float bnas_number(BNAS_NUMBER stored) {
  uint32_t bits = stored, sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
  if (sizeof(BNAS_NUMBER) == 4) return bnas_from_bits(bits);
  if (size < 0x400u) return sign ? -(float)size * 0x1p-24f : (float)size * 0x1p-24f;
  return bnas_from_bits(sign | ((size << 13) + 0x38000000u));
}

static inline uint32_t bnas_popcount(uint32_t x) {
#if defined(__POPCNT__) || defined(__aarch64__) || defined(__riscv_zbb)
  return (uint32_t)__builtin_popcount(x);
#else /* where there is no instruction for it, this is faster than the compiler's function and its table */
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
#endif
}

/* `count` bits (at most 32) from bit `at` on; what lies above them is undefined. */
static inline uint32_t bnas_get(const bnas_word *words, uint32_t at, uint32_t count) {
  uint32_t shift = at & 31u, low = words[at >> 5].bits >> shift;
  return shift + count > 32u ? low | words[(at >> 5) + 1u].bits << (32u - shift) : low;
}

/* Sets those of `count` bits from bit `at` on that are set in `bits`. */
static inline void bnas_set(bnas_word *words, uint32_t at, uint32_t count, uint32_t bits) {
  uint32_t shift = at & 31u;
  if (count < 32u) bits &= (1u << count) - 1u;
  words[at >> 5].bits |= bits << shift;
  if (shift + count > 32u) words[(at >> 5) + 1u].bits |= bits >> (32u - shift);
}

static inline void bnas_clear(bnas_word *words, uint32_t count) {
  while (count--) words[count].bits = 0;
}

static inline uint32_t bnas_words(uint32_t bits) { return (bits + 31u) >> 5; }

/* Sides after a stride, rounded up. */
static inline uint32_t bnas_side(uint32_t side, uint32_t stride) { return (side + stride - 1u) / stride; }

/* A channel of the map that a layer reads. */
static inline const bnas_word *bnas_plane(const bnas_layer *s, const bnas_word *maps, uint32_t channel) {
  if (s->shuffle > 1) channel = channel % s->shuffle * (s->channels / s->shuffle) + channel / s->shuffle;
  return maps + s->source + channel * s->height * s->width;
}

/* Writes value number `at` of a layer's map. */
static inline void bnas_put(const bnas_layer *s, bnas_word *maps, uint32_t at, float value) {
  float *out = &maps[s->out + at].number;
  *out = s->add ? *out + value : value;
}

/* The largest, or the mean, of what there is of `kernel` rows (0: not there) from column `x` on. */
static inline float bnas_window(const bnas_word *const *rows, int32_t kernel, int32_t x, int32_t width, int largest) {
  float total = largest ? bnas_from_bits(0xff800000u) : -0.0f;
  int32_t count = 0;
  for (int32_t i = 0; i < kernel; ++i)
    for (int32_t at = x; at < x + kernel; ++at) {
      int inside = rows[i] && at >= 0 && at < width;
      float value = inside ? rows[i][at].number : 0.0f;
      count += inside;
      if (!largest)
        total += value;
      else if (inside && value > total)
        total = value;
    }
  return largest ? total : total / (float)count;
}

/* The mean of a 2x2 of a channel, at output row y and column x; at an odd border of what there is. */
static inline float bnas_quarter(const bnas_layer *s, const bnas_word *plane, uint32_t y, uint32_t x) {
  const bnas_word *rows[2];
  rows[0] = plane + 2u * y * s->width;
  rows[1] = 2u * y + 1u < s->height ? rows[0] + s->width : 0;
  return bnas_window(rows, 2, 2 * (int32_t)x, s->width, 0);
}

/* A full-precision convolution with zeros around: from the bias, weight * value by channel, row, column. `image` holds
 * [height][width][channels], and is scaled and shifted channel by channel; without one, a map is read. */
static inline void bnas_stem(const bnas_layer *s, bnas_word *maps, bnas_parameters *p, const uint8_t *image,
                             const bnas_word *scale_shift) {
  uint32_t high = bnas_side(s->height, s->stride), wide = bnas_side(s->width, s->stride);
  uint32_t taps = (uint32_t)s->channels * s->kernel * s->kernel;
  int32_t border = s->kernel / 2;
  const BNAS_NUMBER *weights = p->numbers, *bias = weights + s->made * taps;
  bnas_word *seen = maps + s->spare;
  for (uint32_t pixel = 0; pixel < high * wide; ++pixel) {
    int32_t top = (int32_t)(pixel / wide * s->stride) - border, left = (int32_t)(pixel % wide * s->stride) - border;
    bnas_word *next = seen;
    for (uint32_t c = 0; c < s->channels; ++c)
      for (int32_t y = top; y < top + s->kernel; ++y)
        for (int32_t x = left; x < left + s->kernel; ++x, ++next) {
          uint32_t at = (uint32_t)y * s->width + (uint32_t)x;
          next->number = 0.0f;
          if (y < 0 || y >= (int32_t)s->height || x < 0 || x >= (int32_t)s->width) continue;
          next->number = image ? (float)image[at * s->channels + c] * scale_shift[2u * c].number +
                                     scale_shift[2u * c + 1u].number
                               : bnas_plane(s, maps, c)[at].number;
        }
    for (uint32_t o = 0; o < s->made; ++o) {
      float total = bnas_number(bias[o]);
      for (uint32_t tap = 0; tap < taps; ++tap) total += bnas_number(weights[o * taps + tap]) * seen[tap].number;
      bnas_put(s, maps, o * high * wide + pixel, s->relu && !(total > 0.0f) ? 0.0f : total);
    }
  }
  p->numbers = bias + s->made;
}

/* What the outputs of a group see at output row y and column x, as bits [taps][channels / groups], and behind them as
 * many that say which of them lie inside the map; returns how many do. Signs are [height][width][channels]. */
static inline uint32_t bnas_see(const bnas_layer *s, const bnas_word *maps, const bnas_word *thresholds, uint32_t group,
                                uint32_t y, uint32_t x, bnas_word *seen, const bnas_word *signs) {
  uint32_t depth = s->channels / s->groups, words = bnas_words(depth * s->kernel * s->kernel), inside = 0, at = 0;
  int32_t border = s->dilation * (s->kernel - 1) / 2;
  bnas_clear(seen, 2u * words);
  if (s->kernel == 1 && s->groups == 1) {
    uint32_t pixel = y * s->stride * s->width + x * s->stride;
    for (uint32_t c = 0; c < depth; ++c)
      bnas_set(seen, c, 1, bnas_plane(s, maps, c)[pixel].number >= thresholds[c].number);
  }
  for (int32_t tap = 0; tap < s->kernel * s->kernel; ++tap) {
    int32_t row = (int32_t)(y * s->stride) + tap / s->kernel * s->dilation - border;
    int32_t column = (int32_t)(x * s->stride) + tap % s->kernel * s->dilation - border;
    int real = row >= 0 && row < (int32_t)s->height && column >= 0 && column < (int32_t)s->width;
    uint32_t from = ((uint32_t)row * s->width + (uint32_t)column) * s->channels + group * depth;
    for (uint32_t c = 0, count; c < depth; c += count, at += count) {
      count = depth - c < 32u ? depth - c : 32u;
      if (!real) continue;
      if (signs) bnas_set(seen, at, count, bnas_get(signs, from + c, count));
      bnas_set(seen + words, at, count, 0xffffffffu);
      inside += count;
    }
  }
  return inside;
}

/* What the shortcut adds to output o: tiled when widening, means of groups of channels when narrowing. */
static inline float bnas_matched(const bnas_layer *s, const bnas_word *x, uint32_t o) {
  uint32_t have = s->channels, made = s->made, first = o * have / made, end = ((o + 1u) * have + made - 1u) / made;
  float total = 0.0f, share = 1.0f / (float)(end - first);
  if (made >= have) return x[o % have].number;
  for (; first < end; ++first) total += x[first].number * share;
  return total;
}

/* A binary block: PReLU(scale * (products that agree - products that do not) + shift + shortcut). All that it needs of
 * a pixel is copied before that pixel is written, and the signs of a whole map before any is. */
static inline void bnas_block(const bnas_layer *s, bnas_word *maps, bnas_parameters *p) {
  uint32_t high = bnas_side(s->height, s->stride), wide = bnas_side(s->width, s->stride);
  uint32_t pixels = (uint32_t)s->height * s->width, per_group = s->made / s->groups;
  uint32_t products = s->channels / s->groups * s->kernel * s->kernel, words = bnas_words(products), inside = 0;
  bnas_word *shortcut = maps + s->spare, *seen = shortcut + s->channels, *signs = 0;
  if (s->kernel != 1 || s->groups != 1) {
    signs = seen + 2u * words;
    bnas_clear(signs, bnas_words(pixels * s->channels));
    for (uint32_t c = 0; c < s->channels; ++c) {
      const bnas_word *plane = bnas_plane(s, maps, c);
      for (uint32_t i = 0; i < pixels; ++i)
        bnas_set(signs, i * s->channels + c, 1, plane[i].number >= p->thresholds[c].number);
    }
  }
  for (uint32_t pixel = 0; pixel < high * wide; ++pixel) {
    uint32_t y = pixel / wide, x = pixel % wide, weight = p->weight;
    const BNAS_NUMBER *affine = p->numbers;
    for (uint32_t c = 0; c < s->channels; ++c) {
      const bnas_word *plane = bnas_plane(s, maps, c);
      shortcut[c].number = s->stride == 1 ? plane[pixel].number : bnas_quarter(s, plane, y, x);
    }
    for (uint32_t o = 0; o < s->made; ++o, affine += 3) {
      uint32_t differ = 0;
      float value, slope = bnas_number(affine[2]);
      if (o % per_group == 0) inside = bnas_see(s, maps, p->thresholds, o / per_group, y, x, seen, signs);
      for (uint32_t i = 0, left = products; i < words; ++i) {
        uint32_t count = left < 32u ? left : 32u;
        differ += bnas_popcount((seen[i].bits ^ bnas_get(p->weights, weight, count)) & seen[words + i].bits);
        weight += count;
        left -= count;
      }
      value = (float)((int32_t)inside - 2 * (int32_t)differ) * bnas_number(affine[0]) + bnas_number(affine[1]);
      value = value + bnas_matched(s, shortcut, o);
      bnas_put(s, maps, o * high * wide + pixel, value > 0.0f ? value : slope * value);
    }
  }
  p->thresholds += s->channels;
  p->weight += s->made * products;
  p->numbers += 3u * s->made;
}

/* 3x3 maximum or mean. Where it writes over what it reads, the two rows that it still needs are copied before. */
static inline void bnas_pool(const bnas_layer *s, bnas_word *maps, int largest) {
  uint32_t high = bnas_side(s->height, s->stride), wide = bnas_side(s->width, s->stride), w = s->width;
  bnas_word *spare = maps + s->spare;
  for (uint32_t c = 0; c < s->channels; ++c) {
    const bnas_word *plane = bnas_plane(s, maps, c), *rows[3];
    for (uint32_t y = 0; y < high; ++y) {
      const bnas_word *middle = plane + y * s->stride * w;
      rows[0] = y ? middle - w : 0;
      rows[1] = middle;
      rows[2] = y * s->stride + 1u < s->height ? middle + w : 0;
      if (s->source == s->out) {
        bnas_word *copy = spare + (y & 1u) * w;
        for (uint32_t x = 0; x < w; ++x) copy[x] = middle[x];
        rows[0] = y ? spare + (~y & 1u) * w : 0;
        rows[1] = copy;
      }
      for (uint32_t x = 0; x < wide; ++x) {
        int32_t first = (int32_t)(x * s->stride) - 1;
        bnas_put(s, maps, (c * high + y) * wide + x, bnas_window(rows, 3, first, (int32_t)w, largest));
      }
    }
  }
}

/* The 2x2 mean at stride 2, the map itself, or zeros. */
static inline void bnas_simple(const bnas_layer *s, bnas_word *maps) {
  uint32_t high = bnas_side(s->height, s->stride), wide = bnas_side(s->width, s->stride);
  for (uint32_t c = 0; c < s->channels; ++c) {
    const bnas_word *plane = bnas_plane(s, maps, c);
    for (uint32_t pixel = 0; pixel < high * wide; ++pixel) {
      float value = 0.0f;
      if (BNAS_IS(s, BNAS_HALVE)) value = bnas_quarter(s, plane, pixel / wide, pixel % wide);
      if (BNAS_IS(s, BNAS_COPY)) value = plane[pixel].number;
      bnas_put(s, maps, c * high * wide + pixel, value);
    }
  }
}

/* The mean of each channel, and a linear layer; returns the number of the largest logit, the first of equals. */
static inline int bnas_classify(const bnas_layer *s, const bnas_word *maps, const bnas_parameters *p, float *logits) {
  uint32_t pixels = (uint32_t)s->height * s->width, weights = BNAS_BYTES ? s->made : (uint32_t)s->made * s->channels;
  int best = 0;
  for (uint32_t k = 0; k < s->made; ++k) logits[k] = bnas_number(p->numbers[weights + k]);
  for (uint32_t c = 0; c < s->channels; ++c) {
    const bnas_word *plane = bnas_plane(s, maps, c);
    float mean = 0.0f;
    for (uint32_t i = 0; i < pixels; ++i) mean += plane[i].number;
    mean = mean / (float)pixels;
    for (uint32_t k = 0; k < s->made; ++k) {
      uint32_t at = k * s->channels + c;
      logits[k] += (BNAS_BYTES ? (float)p->bytes[at] * bnas_number(p->numbers[k]) : bnas_number(p->numbers[at])) * mean;
    }
  }
  for (int k = 1; k < (int)s->made; ++k)
    if (logits[k] > logits[best]) best = k;
  return best;
}

/* All layers on one image; the last is the classifier, whose answer is returned. */
static inline int bnas_run(const bnas_layer *layers, bnas_parameters p, const bnas_word *scale_shift, bnas_word *maps,
                           const uint8_t *image, float *logits) {
  for (const bnas_layer *s = layers;; ++s) {
    if (BNAS_IS(s, BNAS_CLASSIFY)) return bnas_classify(s, maps, &p, logits);
    if (BNAS_IS(s, BNAS_PIXELS))
      bnas_stem(s, maps, &p, image, scale_shift);
    else if (BNAS_IS(s, BNAS_STEM))
      bnas_stem(s, maps, &p, 0, scale_shift);
    else if (BNAS_IS(s, BNAS_BLOCK))
      bnas_block(s, maps, &p);
    else if (BNAS_IS(s, BNAS_MAX))
      bnas_pool(s, maps, 1);
    else if (BNAS_IS(s, BNAS_AVG))
      bnas_pool(s, maps, 0);
    else
      bnas_simple(s, maps);
  }
}

#endif
