// The instruction sets that the CPU kernels are built for, and which of them this processor runs.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace sbc {

// In ascending order: a processor that runs one of them runs all those before it.
enum class Isa { portable, avx2, avx512, vpopcnt, amx };

const char* isa_name(Isa isa);

// AVX2 includes FMA. AVX-512 means F, BW, DQ and VL (Skylake-X and later). VPOPCNT adds VPOPCNTDQ
// and VBMI (Ice Lake, Zen 4 and later). AMX adds tiles of bytes (Sapphire Rapids and later), which
// the operating system has to permit.
std::vector<Isa> available_isas();

// "" is the best available one. Throws std::invalid_argument naming the available ones.
Isa parse_isa(const std::string& name);

}  // namespace sbc

// Each *cpu.cpp is compiled once per instruction set, into the namespace of that name. VPOPCNT and
// AMX have functions of their own where that helps, and otherwise run those of AVX-512.
#define SBC_FOR_EACH_ISA(DECLARE) DECLARE(portable) DECLARE(avx2) DECLARE(avx512)

// Picks the copy of `function` that was built for `isa`.
#if defined(SBC_X86)
#define SBC_SELECT_ISA(isa, function)             \
  ((isa) >= ::sbc::Isa::avx512 ? avx512::function \
   : (isa) == ::sbc::Isa::avx2 ? avx2::function   \
                               : portable::function)
#define SBC_SELECT_ISA_OR(special, isa, function) \
  ((isa) >= ::sbc::Isa::special ? special::function : SBC_SELECT_ISA(isa, function))
#else
// A conditional with equal branches: a comma expression would not resolve a template's address.
#define SBC_SELECT_ISA(isa, function) \
  ((isa) == ::sbc::Isa::portable ? portable::function : portable::function)
#define SBC_SELECT_ISA_OR(special, isa, function) SBC_SELECT_ISA(isa, function)
#endif
