/* A stand-in for libnvidia-ml.so.1 that the real pynvml loads: it answers at once, as no driver does, so that
   what is left is the cost of the calls. Built by stub_nvml.py; OLD leaves out the field values, as old drivers do,
   VOLTA the energy counter, as before that architecture, FORGETFUL does not write one of the fields asked for.
   Numbers move like those of a card under load: every 100 ms. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define UINT_TYPE 1
#define ULL_TYPE 3

typedef struct {
  uint32_t field, scope;
  int64_t timestamp, latency;
  uint32_t type, code;
  union {
    double d;
    uint32_t u;
    uint64_t ull;
  } value;
} field_value; /* nvmlFieldValue_t of nvml.h */

static int cards[64];

static unsigned count(void) {
  const char *text = getenv("STUB_NVML_CARDS");
  return text ? (unsigned)atoi(text) : 1;
}

static uint32_t noise(uint64_t n) {
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9ull;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebull;
  return (uint32_t)(n >> 32);
}

static int index_of(void *device) { return (int)((int *)device - cards); }

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

int nvmlInitWithFlags(unsigned flags) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  snprintf(text, size, "580.95.05");
  return OK;
}

int nvmlDeviceGetCount_v2(unsigned *n) {
  *n = count();
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= count()) return INVALID_ARGUMENT;
  *device = cards + index;
  return OK;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  snprintf(text, size, "GPU-00000000-0000-0000-0000-%012d", index_of(device));
  return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  char own[96];
  for (unsigned i = 0; i < count(); i++) {
    nvmlDeviceGetUUID(cards + i, own, sizeof own);
    if (!strcmp(own, uuid)) {
      *device = cards + i;
      return OK;
    }
  }
  return NOT_FOUND;
}

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
  snprintf(text, size, "stub card");
  return OK;
}

#ifndef OLD
int nvmlDeviceGetFieldValues(void *device, int n, field_value *values) {
  int64_t now = now_us();
  uint64_t look = (uint64_t)(now + 7000 * index_of(device)) / 100000;
  uint32_t power = 300000 + noise(look * 64 + index_of(device)) % 100000;
  for (int i = 0; i < n; i++) {
    field_value *v = values + i;
#ifdef FORGETFUL
    if (v->field == 185) continue;
#endif
    v->timestamp = now;
    v->latency = 1;
    v->code = v->scope ? NOT_SUPPORTED : OK;
    v->type = ULL_TYPE;
    switch (v->field) {
      case 83: v->value.ull = look * 35000 + noise(look) % 1000; break;
      case 185: v->type = UINT_TYPE; v->value.u = 350000 + power / 100; break;
      case 186: v->type = UINT_TYPE; v->value.u = power; break;
      case 74: v->value.ull = look * 40000000; break;
      case 75: case 269: case 270: case 271: v->value.ull = 0; break;
      default: v->code = NOT_SUPPORTED;
    }
  }
  return OK;
}
#endif

#ifndef VOLTA
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  *mj = (unsigned long long)now_us() / 100000 * 35000;
  return OK;
}
#endif

int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) {
  *mw = 350000;
  return OK;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
  *celsius = 60;
  return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *mw) {
  *mw = 700000;
  return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, void *infos) {
  *n = 0;
  return OK;
}
