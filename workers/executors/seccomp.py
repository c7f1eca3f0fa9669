"""The system-call filter of the sandbox, as a classic BPF program for `bwrap --add-seccomp-fd`.

A deny list, after Docker's default profile: calls that reach the kernel's namespaces, keyrings, tracing, asynchronous
and module machinery answers EPERM, and so does every call that would make a setuid or setgid file, or change the limits
or the scheduling of the sandbox's init, which has the build's own user. clone3 and openat2 answer ENOSYS, so that
programs fall back to clone and openat, whose arguments a filter can read. Layout of `struct seccomp_data`:
linux/seccomp.h; numbers: asm/unistd_64.h, asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct

from shared.errors import PlatformError

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

_NUMBER_OFFSET = 0
_ARCHITECTURE_OFFSET = 4
_ARGUMENTS_OFFSET = 16

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# CLONE_NEWTIME is left out: its bit lies in clone's exit-signal byte, so clone can't take it anyway.
_CLONE_NEW_ANY = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# AF_VSOCK reaches a virtual machine's host whatever the network namespace; AF_PACKET, AF_ALG and the rest are
# attack surface that no build needs.
_SOCKET_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

# (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "ioperm": (173, None),
    "iopl": (172, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_OPENAT2 = 437
_IOCTL = {"x86_64": 16, "aarch64": 29}
_SOCKET = {"x86_64": 41, "aarch64": 198}

_SET_ID_BITS = 0o6000  # S_ISUID | S_ISGID
# ((x86_64, aarch64), the place of the mode among the arguments). Not mkdir: the kernel drops both bits (mkdir(2)).
_MODE_SETTERS: tuple[tuple[tuple[int | None, int | None], int], ...] = (
    ((90, None), 1),  # chmod
    ((91, 52), 1),  # fchmod
    ((268, 53), 2),  # fchmodat
    ((452, 452), 2),  # fchmodat2
    ((85, None), 1),  # creat
    ((133, None), 1),  # mknod
    ((259, 33), 2),  # mknodat
)
# ((x86_64, aarch64), the place of the flags; the mode follows them). The mode counts only where a file may be made.
_OPENERS: tuple[tuple[tuple[int | None, int | None], int], ...] = (
    ((2, None), 1),  # open
    ((257, 56), 2),  # openat
)
_CREATING_FLAGS = 0o100 | 0o20000000  # O_CREAT | __O_TMPFILE

# ((x86_64, aarch64), the place of the process id). 0 is the caller, and no thread of the build is 1.
_PROCESS_SETTERS: tuple[tuple[tuple[int, int], int], ...] = (
    ((302, 261), 0),  # prlimit64: at its limit of CPU time the kernel kills even an init
    ((142, 118), 0),  # sched_setparam
    ((144, 119), 0),  # sched_setscheduler
    ((314, 274), 0),  # sched_setattr
    ((203, 122), 0),  # sched_setaffinity
    ((141, 140), 1),  # setpriority
    ((251, 30), 1),  # ioprio_set
)
# ((x86_64, aarch64), the kind that means one process, as argument 0): of a group or a user the init is one, too.
_CROWD_SETTERS: tuple[tuple[tuple[int, int], int], ...] = (
    ((141, 140), 0),  # setpriority: PRIO_PROCESS
    ((251, 30), 1),  # ioprio_set: IOPRIO_WHO_PROCESS
)
_INIT = 1


def build_filter(machine: str | None = None) -> bytes:
    """`struct sock_filter[]` for `machine` (default: this one's). Raises PlatformError for one without a table."""
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCHITECTURE:
        raise PlatformError(f"No system-call filter for {machine}: sandboxes run on x86_64 and aarch64.")
    column = 0 if machine == "x86_64" else 1
    program = [
        _load(_ARCHITECTURE_OFFSET),
        _instruction(_JUMP_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        _answer(_KILL_PROCESS),
        _load(_NUMBER_OFFSET),
    ]
    if machine == "x86_64":
        # The x32 calls are the same calls under other numbers.
        program += [_instruction(_JUMP_AT_LEAST, 0, 1, _X32_BIT), _answer(_ERRNO | errno.EPERM)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [_instruction(_JUMP_EQUAL, 0, 1, number), _answer(_ERRNO | errno.EPERM)]
    for number in (_CLONE3, _OPENAT2):
        program += [_instruction(_JUMP_EQUAL, 0, 1, number), _answer(_ERRNO | errno.ENOSYS)]
    program += _without_set_id(column)
    for numbers, process in _PROCESS_SETTERS:
        refuse = [_instruction(_JUMP_EQUAL, 0, 1, _INIT), _answer(_ERRNO | errno.EPERM)]
        program += _when(numbers[column], process, refuse)
    for numbers, kind in _CROWD_SETTERS:
        refuse = [_instruction(_JUMP_EQUAL, 1, 0, kind), _answer(_ERRNO | errno.EPERM)]
        program += _when(numbers[column], 0, refuse)
    program += _when(_CLONE[machine], 0, [_instruction(_JUMP_ANY_BIT, 0, 1, _CLONE_NEW_ANY), _answer(_ERRNO | 1)])
    injections = [_instruction(_JUMP_EQUAL, 0, 1, request) for request in _TERMINAL_INJECTION]
    program += _when(_IOCTL[machine], 1, [part for jump in injections for part in (jump, _answer(_ERRNO | 1))])
    families = [_instruction(_JUMP_EQUAL, 0, 1, family) for family in _SOCKET_FAMILIES]
    allowed = [part for jump in families for part in (jump, _answer(_ALLOW))]
    program += _when(_SOCKET[machine], 0, [*allowed, _answer(_ERRNO | errno.EAFNOSUPPORT)])
    program.append(_answer(_ALLOW))
    return b"".join(program)


def _without_set_id(column: int) -> list[bytes]:
    """EPERM for every call whose mode has the setuid or setgid bit."""
    refuse = [_instruction(_JUMP_ANY_BIT, 0, 1, _SET_ID_BITS), _answer(_ERRNO | errno.EPERM)]
    program: list[bytes] = []
    for numbers, mode in _MODE_SETTERS:
        number = numbers[column]
        if number is not None:
            program += _when(number, mode, refuse)
    for numbers, flags in _OPENERS:
        number = numbers[column]
        if number is not None:
            mode_and_verdict = [_load(_ARGUMENTS_OFFSET + 8 * (flags + 1)), *refuse]
            jump = _instruction(_JUMP_ANY_BIT, 0, len(mode_and_verdict), _CREATING_FLAGS)
            program += _when(number, flags, [jump, *mode_and_verdict])
    return program


def _when(number: int, argument: int, body: list[bytes]) -> list[bytes]:
    """`body` sees the low half of the argument (both architectures are little-endian); then the number is back."""
    inner = [_load(_ARGUMENTS_OFFSET + 8 * argument), *body, _load(_NUMBER_OFFSET)]
    return [_instruction(_JUMP_EQUAL, 0, len(inner), number), *inner]


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, 0, 0, offset)


def _answer(value: int) -> bytes:
    return _instruction(_RETURN, 0, 0, value)


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
