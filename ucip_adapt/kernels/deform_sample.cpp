// One-dimensional deformable sampling of channels-last features, forward and backward.
//
// A line is one row or one column of one image. For LANES channels at a time it is copied into a
// small buffer with two pixels of zeros on either side, so that no tap needs a bounds check, both
// axes run the same loops, and columns do not fight for the same cache sets. Neighbouring lanes are
// neighbouring channels: additions into the gradient's buffer never wait for one another.
//
// Plain C functions: no PyTorch header, so that it compiles in seconds.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;

struct BFloat16 {
    uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline double load(const double* p) { return *p; }
inline float load(const BFloat16* p) {
    const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(double* p, double value) { *p = value; }
inline void store(BFloat16* p, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    // Round to nearest even; a NaN stays one.
    p->bits = value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Elements from one image, one line and one position on the line to the next; channels have step 1.
struct Steps {
    int64_t image, line, position;
};

struct Shape {
    int64_t images, lines, length, channels, groups;
};

// Where lane c of position j reads: the buffer's index of the lower tap and the upper tap's share.
template <typename A>
inline void locate(const A* offset, const int* group, int64_t j, int64_t length, int* index,
                   A* share) {
    // Loads by table apart from arithmetic: the compiler turns the latter into vector code.
    A moved[LANES];
    for (int c = 0; c < LANES; ++c) moved[c] = offset[group[c]];
    const A start = static_cast<A>(j), end = static_cast<A>(length);
    for (int c = 0; c < LANES; ++c) {
        A p = start + moved[c];
        p = p < A(-2) ? A(-2) : p;
        p = p > end ? end : p;
        const A lower = std::floor(p);
        share[c] = p - lower;
        // The comparison sends NaN to the zeros in front; its share carries the NaN on.
        index[c] = (static_cast<int>(lower >= A(-2) ? lower : A(-2)) + 2) * LANES + c;
    }
}

#ifdef __AVX512F__
// The same for all lanes at once, where a processor fetches and adds at many addresses in one
// instruction: compilers do not choose these on their own. Channels share an offset by ones or twos.
namespace wide {

inline __m512 load_lanes(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load_lanes(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store_lanes(float* p, __m512 values) { _mm512_storeu_ps(p, values); }
inline void store_lanes(BFloat16* p, __m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(p),
        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0))));
}

inline __m512 gather(const float* base, __m512i index) {
    return _mm512_i32gather_ps(index, base, sizeof(float));
}

template <int S>
inline void locate(const float* offset, int64_t j, int64_t length, __m512i* index, __m512* share) {
    static_assert(S == 1 || S == 2);
    __m512 moved;
    if constexpr (S == 1) {
        moved = _mm512_loadu_ps(offset);
    } else {
        const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
        moved = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(offset)));
    }
    const __m512 start = _mm512_set1_ps(-2), end = _mm512_set1_ps(static_cast<float>(length));
    // Of a NaN and a number, both give what comes second.
    __m512 p = _mm512_add_ps(_mm512_set1_ps(static_cast<float>(j)), moved);
    p = _mm512_min_ps(end, _mm512_max_ps(start, p));
    const __m512 lower = _mm512_roundscale_ps(p, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    *share = _mm512_sub_ps(p, lower);
    const __m512i tap = _mm512_cvttps_epi32(_mm512_max_ps(lower, start));
    static_assert(LANES == 16);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    *index = _mm512_add_epi32(_mm512_slli_epi32(tap, 4),
                              _mm512_add_epi32(lane, _mm512_set1_epi32(2 * LANES)));
}

template <int S, typename T>
void forward(const float* taps, const float* offset, int64_t offset_step, int64_t length, T* y,
             int64_t y_step) {
    for (int64_t j = 0; j < length; ++j, offset += offset_step, y += y_step) {
        __m512i index;
        __m512 share;
        locate<S>(offset, j, length, &index, &share);
        const __m512 lower = gather(taps, index), upper = gather(taps + LANES, index);
        const __m512 kept = _mm512_mul_ps(lower, _mm512_sub_ps(_mm512_set1_ps(1), share));
        store_lanes(y, _mm512_fmadd_ps(upper, share, kept));
    }
}

inline void add_at(float* base, __m512i index, __m512 values) {
    // No two lanes have an address in common.
    _mm512_i32scatter_ps(base, index, _mm512_add_ps(gather(base, index), values), sizeof(float));
}

template <int S, typename T>
void backward(const float* taps, float* sums, const float* offset, int64_t offset_step,
              int64_t length, const T* gy, int64_t gy_step, float* go, int64_t go_step) {
    for (int64_t j = 0; j < length; ++j, offset += offset_step, gy += gy_step, go += go_step) {
        __m512i index;
        __m512 share;
        locate<S>(offset, j, length, &index, &share);
        const __m512 g = load_lanes(gy);
        const __m512 to_upper = _mm512_mul_ps(g, share);
        add_at(sums, index, _mm512_sub_ps(g, to_upper));
        add_at(sums + LANES, index, to_upper);
        const __m512 lower = gather(taps, index), upper = gather(taps + LANES, index);
        const __m512 slope = _mm512_mul_ps(g, _mm512_sub_ps(upper, lower));
        if constexpr (S == 1) {
            _mm512_storeu_ps(go, slope);
        } else {
            const __m512 pairs = _mm512_add_ps(slope, _mm512_permute_ps(slope, 0xb1));
            const __m512i even =
                _mm512_set_epi32(14, 12, 10, 8, 6, 4, 2, 0, 14, 12, 10, 8, 6, 4, 2, 0);
            _mm256_storeu_ps(go, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, pairs)));
        }
    }
}

// Both return whether they did it: with full lanes in float arithmetic, the usual shares.
template <typename T, typename A>
bool try_forward(const A* taps, const A* offset, int64_t offset_step, const Shape& shape,
                 int64_t first, T* y, int64_t y_step) {
    if constexpr (std::is_same_v<A, float>) {
        const int64_t share = shape.channels / shape.groups;
        if (shape.channels - first < LANES || share > 2) return false;
        const auto run = share == 1 ? forward<1, T> : forward<2, T>;
        run(taps, offset + first / share, offset_step, shape.length, y, y_step);
        return true;
    }
    return false;
}

template <typename T, typename A>
bool try_backward(const A* taps, A* sums, const A* offset, int64_t offset_step, const Shape& shape,
                  int64_t first, const T* gy, int64_t gy_step, A* go, int64_t go_step) {
    if constexpr (std::is_same_v<A, float>) {
        const int64_t share = shape.channels / shape.groups;
        if (shape.channels - first < LANES || share > 2) return false;
        const auto run = share == 1 ? backward<1, T> : backward<2, T>;
        run(taps, sums, offset + first / share, offset_step, shape.length, gy, gy_step,
            go + first / share, go_step);
        return true;
    }
    return false;
}

template <typename T, typename A>
bool try_stage(const T* from, A* to) {
    if constexpr (std::is_same_v<A, float>) {
        store_lanes(to, load_lanes(from));
        return true;
    }
    return false;
}

}  // namespace wide
#else
namespace wide {

template <typename... Any>
bool try_forward(const Any&...) { return false; }
template <typename... Any>
bool try_backward(const Any&...) { return false; }
template <typename... Any>
bool try_stage(const Any&...) { return false; }

}  // namespace wide
#endif

template <typename T, typename A>
void stage(const T* x, int64_t step, int64_t length, int lanes, A* buffer) {
    std::fill(buffer, buffer + 2 * LANES, A(0));
    for (int64_t j = 0; j < length; ++j) {
        A* to = buffer + (j + 2) * LANES;
        const T* from = x + j * step;
        if (lanes == LANES) {
            if (wide::try_stage(from, to)) continue;
            for (int c = 0; c < LANES; ++c) to[c] = load(from + c);
        } else {
            for (int c = 0; c < LANES; ++c) to[c] = c < lanes ? load(from + c) : A(0);
        }
    }
    std::fill(buffer + (length + 2) * LANES, buffer + (length + 4) * LANES, A(0));
}

// Lanes beyond the last channel repeat the last group; their results are never written.
inline void groups_of(const Shape& shape, int64_t first, int* group) {
    const int64_t share = shape.channels / shape.groups;
    for (int c = 0; c < LANES; ++c)
        group[c] = static_cast<int>(std::min(first + c, shape.channels - 1) / share);
}

template <typename T, typename A>
void forward_lines(const T* x, Steps xs, const A* offset, Steps os, T* y, Steps ys, Shape shape,
                   int64_t begin, int64_t end) {
    std::vector<A> buffer((shape.length + 4) * LANES);
    int group[LANES], index[LANES];
    A share[LANES], lower[LANES], upper[LANES], value[LANES];
    A* const taps = buffer.data();
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t image = unit / shape.lines, line = unit % shape.lines;
        const A* o = offset + image * os.image + line * os.line;
        for (int64_t first = 0; first < shape.channels; first += LANES) {
            const int lanes = static_cast<int>(std::min<int64_t>(LANES, shape.channels - first));
            stage(x + image * xs.image + line * xs.line + first, xs.position, shape.length, lanes,
                  buffer.data());
            T* const row = y + image * ys.image + line * ys.line + first;
            if (wide::try_forward(taps, o, os.position, shape, first, row, ys.position)) continue;
            groups_of(shape, first, group);
            for (int64_t j = 0; j < shape.length; ++j) {
                locate(o + j * os.position, group, j, shape.length, index, share);
                for (int c = 0; c < LANES; ++c) lower[c] = taps[index[c]];
                for (int c = 0; c < LANES; ++c) upper[c] = taps[index[c] + LANES];
                for (int c = 0; c < LANES; ++c)
                    value[c] = lower[c] * (1 - share[c]) + upper[c] * share[c];
                T* to = row + j * ys.position;
                for (int c = 0; c < lanes; ++c) store(to + c, value[c]);
            }
        }
    }
}

template <typename T, typename A>
void backward_lines(const T* x, Steps xs, const A* offset, Steps os, const T* gy, Steps gs, T* gx,
                    Steps gxs, bool add, A* go, Steps gos, Shape shape, int64_t begin,
                    int64_t end) {
    std::vector<A> buffer((shape.length + 4) * LANES), sums((shape.length + 4) * LANES);
    int group[LANES], index[LANES];
    A share[LANES], lower[LANES], upper[LANES], slope[LANES], g[LANES];
    A* const taps = buffer.data();
    A* const totals = sums.data();
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t image = unit / shape.lines, line = unit % shape.lines;
        const A* o = offset + image * os.image + line * os.line;
        A* to_offset = go + image * gos.image + line * gos.line;
        for (int64_t j = 0; j < shape.length; ++j)
            std::fill_n(to_offset + j * gos.position, shape.groups, A(0));
        for (int64_t first = 0; first < shape.channels; first += LANES) {
            const int lanes = static_cast<int>(std::min<int64_t>(LANES, shape.channels - first));
            stage(x + image * xs.image + line * xs.line + first, xs.position, shape.length, lanes,
                  buffer.data());
            std::fill(sums.begin(), sums.end(), A(0));
            const T* const given = gy + image * gs.image + line * gs.line + first;
            const bool done = wide::try_backward(taps, totals, o, os.position, shape, first, given,
                                                 gs.position, to_offset, gos.position);
            groups_of(shape, first, group);
            for (int64_t j = 0; j < shape.length && !done; ++j) {
                locate(o + j * os.position, group, j, shape.length, index, share);
                const T* from = given + j * gs.position;
                for (int c = 0; c < LANES; ++c) g[c] = c < lanes ? load(from + c) : A(0);
                for (int c = 0; c < LANES; ++c) lower[c] = taps[index[c]];
                for (int c = 0; c < LANES; ++c) upper[c] = taps[index[c] + LANES];
                for (int c = 0; c < LANES; ++c) {
                    slope[c] = g[c] * (upper[c] - lower[c]);
                    upper[c] = g[c] * share[c];
                    lower[c] = g[c] - upper[c];
                }
                for (int c = 0; c < LANES; ++c) {
                    totals[index[c]] += lower[c];
                    totals[index[c] + LANES] += upper[c];
                }
                A* slopes = to_offset + j * gos.position;
                for (int c = 0; c < lanes; ++c) slopes[group[c]] += slope[c];
            }
            T* to = gx + image * gxs.image + line * gxs.line + first;
            for (int64_t j = 0; j < shape.length; ++j)
                for (int c = 0; c < lanes; ++c) {
                    T* target = to + j * gxs.position + c;
                    const A sum = sums[(j + 2) * LANES + c];
                    store(target, add ? load(target) + sum : sum);
                }
        }
    }
}

// Give each thread one run of lines.
template <typename F>
void share_out(int64_t units, int threads, F work) {
    const int64_t count = std::max<int64_t>(1, std::min<int64_t>(threads, units));
    std::vector<std::thread> others;
    for (int64_t i = 1; i < count; ++i)
        others.emplace_back(work, units * i / count, units * (i + 1) / count);
    work(0, units / count);
    for (auto& other : others) other.join();
}

template <typename T, typename A>
void forward(const void* x, const Steps* xs, const void* offset, const Steps* os, void* y,
             const Steps* ys, const Shape* shape, int threads) {
    share_out(shape->images * shape->lines, threads, [=](int64_t begin, int64_t end) {
        forward_lines(static_cast<const T*>(x), *xs, static_cast<const A*>(offset), *os,
                      static_cast<T*>(y), *ys, *shape, begin, end);
    });
}

template <typename T, typename A>
void backward(const void* x, const Steps* xs, const void* offset, const Steps* os, const void* gy,
              const Steps* gs, void* gx, const Steps* gxs, bool add, void* go, const Steps* gos,
              const Shape* shape, int threads) {
    share_out(shape->images * shape->lines, threads, [=](int64_t begin, int64_t end) {
        backward_lines(static_cast<const T*>(x), *xs, static_cast<const A*>(offset), *os,
                       static_cast<const T*>(gy), *gs, static_cast<T*>(gx), *gxs, add,
                       static_cast<A*>(go), *gos, *shape, begin, end);
    });
}

}  // namespace

#define UCIP_DEFINE(NAME, T, A)                                                                    \
    extern "C" void ucip_forward_##NAME(const void* x, const Steps* xs, const void* offset,       \
                                        const Steps* os, void* y, const Steps* ys,                \
                                        const Shape* shape, int threads) {                        \
        forward<T, A>(x, xs, offset, os, y, ys, shape, threads);                                  \
    }                                                                                             \
    extern "C" void ucip_backward_##NAME(const void* x, const Steps* xs, const void* offset,      \
                                         const Steps* os, const void* gy, const Steps* gs,        \
                                         void* gx, const Steps* gxs, int add, void* go,           \
                                         const Steps* gos, const Shape* shape, int threads) {     \
        backward<T, A>(x, xs, offset, os, gy, gs, gx, gxs, add != 0, go, gos, shape, threads);    \
    }

UCIP_DEFINE(float32, float, float)
UCIP_DEFINE(float64, double, double)
UCIP_DEFINE(bfloat16, BFloat16, float)
