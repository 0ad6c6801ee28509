/* Start of a Cortex-M3 or M4 in QEMU's boards mps2-an385 and mps2-an386, for programs that print through semihosting:
 * arm-none-eabi-gcc ... startup.c -T mps2.ld -nostartfiles --specs=rdimon.specs */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t bnas_stack_top, bnas_data_from, bnas_data, bnas_data_end, bnas_bss, bnas_bss_end;
extern void initialise_monitor_handles(void);
int main(void);
void start(void);

/* What newlib calls around main, where constructors would be. */
void _init(void);
void _fini(void);
void _init(void) {}
void _fini(void) {}

static void fail(void) {
  for (;;) exit(70);
}

void start(void) {
  uint32_t *from = &bnas_data_from;
  for (uint32_t *to = &bnas_data; to < &bnas_data_end; ++to) *to = *from++;
  for (uint32_t *to = &bnas_bss; to < &bnas_bss_end; ++to) *to = 0;
#ifdef __ARM_FP
  *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* the coprocessor for floats */
  __asm volatile("dsb\n\tisb");
#endif
  initialise_monitor_handles();
  exit(main());
}

typedef union {
  void *stack;
  void (*handler)(void);
} entry;

__attribute__((section(".vectors"), used)) static const entry vectors[16] = {
    {&bnas_stack_top}, {.handler = start}, {.handler = fail}, {.handler = fail},
    {.handler = fail}, {.handler = fail},  {.handler = fail},
};
