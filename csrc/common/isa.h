// The instruction sets that every CPU kernel is built for, and which of them this processor runs.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace sbc {

// Ascending: a processor that runs one runs all before it.
enum class Isa { portable, avx2, avx512, vpopcnt, amx };

const char* isa_name(Isa isa);

// AVX2 comes with FMA. AVX-512 means F, BW, DQ and VL (Skylake-X and later); VPOPCNT, beside it,
// VPOPCNTDQ and VBMI (Ice Lake, Zen 4 and later); AMX, beside those, tiles of bytes (Sapphire
// Rapids and later), with the operating system's leave to use them.
std::vector<Isa> available_isas();

// "" is the best there is. Throws std::invalid_argument that names what this processor has.
Isa parse_isa(const std::string& name);

}  // namespace sbc

// Each cpu.cpp is compiled once for each instruction set, into the namespace of that name. VPOPCNT
// and AMX have twins of their own where they help; elsewhere they run AVX-512's.
#define SBC_FOR_EACH_ISA(DECLARE) DECLARE(portable) DECLARE(avx2) DECLARE(avx512)

// Picks the twin of `function` that was built for `isa`.
#if defined(SBC_X86)
#define SBC_SELECT_ISA(isa, function)             \
  ((isa) >= ::sbc::Isa::avx512 ? avx512::function \
   : (isa) == ::sbc::Isa::avx2 ? avx2::function   \
                               : portable::function)
#define SBC_SELECT_ISA_OR(special, isa, function) \
  ((isa) >= ::sbc::Isa::special ? special::function : SBC_SELECT_ISA(isa, function))
#else
// A choice of one, because a comma expression would not resolve a template's address.
#define SBC_SELECT_ISA(isa, function) \
  ((isa) == ::sbc::Isa::portable ? portable::function : portable::function)
#define SBC_SELECT_ISA_OR(special, isa, function) SBC_SELECT_ISA(isa, function)
#endif
