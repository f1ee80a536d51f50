#include "common/isa.h"

#if defined(SBC_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sbc {
namespace {

// Tiles add 8 KiB to the state that the operating system saves, so a process must request them
// before their first use. The permission holds for all of its threads.
bool may_use_amx() {
#if defined(SBC_X86) && defined(__linux__)
  constexpr unsigned kTileAndInt8 = 1u << 24 | 1u << 25;  // of leaf 7's edx
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & kTileAndInt8) == kTileAndInt8 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::vpopcnt: return "vpopcnt";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "portable";
  }
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::portable};
#if defined(SBC_X86)
  // The compiler's runtime also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    isas.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      isas.push_back(Isa::avx512);
      if (__builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vbmi")) {
        isas.push_back(Isa::vpopcnt);
        static const bool amx = may_use_amx();
        if (amx) isas.push_back(Isa::amx);
      }
    }
  }
#endif
  return isas;
}

Isa parse_isa(const std::string& name) {
  const std::vector<Isa> isas = available_isas();
  if (name.empty()) return isas.back();
  std::string known;
  for (Isa isa : isas) {
    if (name == isa_name(isa)) return isa;
    known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' does not run here; this processor has: " + known);
}

}  // namespace sbc
