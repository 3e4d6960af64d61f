// One-dimensional deformable sampling of channels-last features, forward and backward.
//
// A line is one row or one column of one image. For LANES channels at a time it is copied into a
// small buffer with two pixels of zeros on either side, so that no tap needs a bounds check, both
// axes run the same loops, and columns do not fight for the same cache sets. Neighbouring lanes are
// neighbouring channels: additions into the gradient's buffer never wait for one another.
//
// Plain C functions: no PyTorch header, so that it compiles in a second or two.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

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

template <typename T, typename A>
void stage(const T* x, int64_t step, int64_t length, int lanes, A* buffer) {
    std::fill(buffer, buffer + 2 * LANES, A(0));
    for (int64_t j = 0; j < length; ++j) {
        A* to = buffer + (j + 2) * LANES;
        const T* from = x + j * step;
        if (lanes == LANES) {
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
            groups_of(shape, first, group);
            stage(x + image * xs.image + line * xs.line + first, xs.position, shape.length, lanes,
                  buffer.data());
            for (int64_t j = 0; j < shape.length; ++j) {
                locate(o + j * os.position, group, j, shape.length, index, share);
                for (int c = 0; c < LANES; ++c) lower[c] = taps[index[c]];
                for (int c = 0; c < LANES; ++c) upper[c] = taps[index[c] + LANES];
                for (int c = 0; c < LANES; ++c)
                    value[c] = lower[c] * (1 - share[c]) + upper[c] * share[c];
                T* to = y + image * ys.image + line * ys.line + j * ys.position + first;
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
            groups_of(shape, first, group);
            stage(x + image * xs.image + line * xs.line + first, xs.position, shape.length, lanes,
                  buffer.data());
            std::fill(sums.begin(), sums.end(), A(0));
            for (int64_t j = 0; j < shape.length; ++j) {
                locate(o + j * os.position, group, j, shape.length, index, share);
                const T* from = gy + image * gs.image + line * gs.line + j * gs.position + first;
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
