//! The unsafe code of the engine: two hints, to the processor and to the operating system, that have no safe form. Neither
//! changes what a program computes.

/// Lines are 64 bytes on every processor this runs fast on; another size makes the hint worse, not wrong.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
/// Huge pages of Linux on x86-64 and on most of aarch64.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Asks for the values to be brought into the first-level cache while other work goes on. Does nothing where the
/// standard library has no such hint.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let inside = values.as_ptr().addr() % LINE;
        let first = values.as_ptr().cast::<i8>().wrapping_sub(inside);
        for at in (0..inside + size_of_val(values)).step_by(LINE) {
            // SAFETY: a prefetch reads nothing a program can see and faults on no address; `wrapping_add` makes no claim
            // about where the pointer points.
            #[expect(unsafe_code, reason = "the intrinsic takes a pointer; see above")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(at));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Asks for huge pages behind the whole ones of them that the values cover, before the memory is touched for the first
/// time. Does nothing elsewhere than on Linux; where the system refuses, small pages stay.
pub fn advise_huge_pages<T>(values: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let first = values.as_mut_ptr().cast::<u8>();
        let skipped = first.addr().next_multiple_of(HUGE) - first.addr();
        let whole = size_of_val(values).saturating_sub(skipped) / HUGE * HUGE;
        if whole > 0 {
            // SAFETY: the range lies within `values`, borrowed exclusively; this advice changes neither contents nor
            // access rights, only the size of the pages behind them. Its result may be ignored: it is a hint.
            #[expect(unsafe_code, reason = "a system call; see above")]
            unsafe {
                libc::madvise(first.wrapping_add(skipped).cast(), whole, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}
