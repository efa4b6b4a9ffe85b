// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// ErrNoQEMU means that QEMU is not installed.
var ErrNoQEMU = errors.New("qemu-system-x86_64 is not installed: `apt-get install --no-install-recommends qemu-system-x86` brings it")

// QEMUEnv names the environment variable with the path of another QEMU.
const QEMUEnv = "WEIR_QEMU"

func findQEMU() (string, error) {
	name, own := "qemu-system-x86_64", os.Getenv(QEMUEnv)
	if own != "" {
		name = own
	}
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case name != own:
		return "", ErrNoQEMU
	}
	return "", fmt.Errorf("%s: %w", QEMUEnv, err)
}

// hardware is what a machine is made of. Two of the same hardware may restore
// each other's snapshots.
type hardware struct {
	accel    Accelerator
	memory   int // MiB
	cpus     int
	disks    []Disk
	networks []Network
	append   string // to the kernel's command line
}

// boot is what is different between machines of the same hardware.
type boot struct {
	kernel, initramfs string // empty when a snapshot is restored
	memoryFile        string
	shared            bool // write to the memory file
	restore           bool
	socket            string // of the port
	nullDevices       bool   // for a snapshot: disks and networks come later
}

// kernelCommandLine silences and skips what costs time and serves no test.
// What each is good for was measured: together they halve a boot under TCG.
func (h hardware) kernelCommandLine() string {
	words := []string{
		"console=ttyS0", "quiet", "panic=-1", "oops=panic", "nokaslr", "mitigations=off", "audit=0",
		"lsm=capability,bpf", "cryptomgr.notests", "rdinit=/init", "random.trust_cpu=on",
		"initcall_blacklist=load_system_certificate_list,jent_mod_init,dmar_free_unused_resources,i8042_init",
		"net.ifnames=0", "printk.time=1", "no_timer_check",
		"printk.devkmsg=on", // no limit to the marks behind each command
		// Debian's kernels clear all memory that they give out: a twentieth of what an
		// emulated one does.
		"init_on_alloc=0",
		// One processor needs no lock prefixes, nor does it pay for them: taking them
		// out of the kernel at its start is what costs.
		"noreplace-smp",
		// Devices, namespaces and programs go after a grace period, which a guest
		// with one processor has at once.
		"rcupdate.rcu_expedited=1",
	}
	if h.accel == TCG {
		words = append(words, "tsc_early_khz=2600000")
	}
	if h.append != "" {
		words = append(words, h.append)
	}
	return strings.Join(words, " ")
}

// arguments returns the command line of QEMU, without its name. Descriptor 3
// is the console, 4 the monitor.
func (h hardware) arguments(b boot) []string {
	share := "off"
	if b.shared {
		share = "on"
	}
	args := []string{
		"-machine", "pc,memory-backend=memory,vmport=off,usb=off,smbus=off,hpet=off",
		"-m", strconv.Itoa(h.memory), "-smp", strconv.Itoa(h.cpus),
		"-object", fmt.Sprintf("memory-backend-file,id=memory,size=%dM,mem-path=%s,share=%s", h.memory, escapeOption(b.memoryFile), share),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot",
		"-chardev", "file,id=console,path=/dev/fd/3", "-serial", "chardev:console",
		"-chardev", "socket,id=monitor,fd=4", "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=port,server=on,wait=off,path=" + escapeOption(b.socket),
		"-device", "virtio-serial-pci,max_ports=2",
		"-device", "virtserialport,chardev=port,name=" + wire.PortName,
	}
	args = append(args, h.accel.arguments()...)
	for i, d := range h.disks {
		args = append(args, d.arguments(i, b.nullDevices)...)
	}
	for i, n := range h.networks {
		args = append(args, n.arguments(i, b.nullDevices)...)
	}
	if b.restore {
		return append(args, "-incoming", "defer")
	}
	return append(args, "-kernel", b.kernel, "-initrd", b.initramfs, "-append", h.kernelCommandLine())
}

// escapeOption protects a path in an option: QEMU ends it at a comma.
func escapeOption(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// qemu is a running QEMU. It cannot outlive this process.
type qemu struct {
	process *os.Process
	mon     *monitor
	console *os.File // read end
	dir     string   // with the socket; private
	socket  string
	stderr  tailBuffer
	ended   chan struct{} // closed when the process is gone
	state   *os.ProcessState
}

// startQEMU starts QEMU, and returns when it answers.
func startQEMU(path string, h hardware, b boot) (*qemu, error) {
	dir, err := os.MkdirTemp("", "weir-vm-")
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	q := &qemu{dir: dir, socket: filepath.Join(dir, "port"), ended: make(chan struct{})}
	b.socket = q.socket
	if err := q.start(path, h.arguments(b)); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return q, nil
}

func (q *qemu) start(path string, args []string) error {
	consoleRead, consoleWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	monitorConn, monitorTheirs, err := socketPair()
	if err != nil {
		consoleRead.Close()
		consoleWrite.Close()
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = []*os.File{consoleWrite, monitorTheirs}
	cmd.Stderr = &q.stderr
	// A group of its own, so that the terminal's Ctrl-C reaches this process
	// alone, which then ends QEMU in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = startTied(cmd, func(state *os.ProcessState) { q.state = state; close(q.ended) })
	// Only QEMU may hold its ends, or their closing would not tell of its end.
	consoleWrite.Close()
	monitorTheirs.Close()
	if err != nil {
		consoleRead.Close()
		monitorConn.Close()
		return err
	}
	q.process, q.console = cmd.Process, consoleRead
	if q.mon, err = newMonitor(monitorConn, qmpDeadline); err != nil {
		q.kill()
		if said := q.stderr.String(); said != "" {
			err = errors.New(said)
		}
		consoleRead.Close()
		monitorConn.Close()
		return err
	}
	return nil
}

// startTied starts a command that is killed when this process ends, even by
// SIGKILL. The kernel sends that signal when the *thread* that started the
// command ends, so that one thread is kept for it until the command is gone.
func startTied(cmd *exec.Cmd, ended func(*os.ProcessState)) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		cmd.Wait()
		ended(cmd.ProcessState)
	}()
	return <-started
}

func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	file := os.NewFile(uintptr(fds[0]), "monitor")
	defer file.Close() // FileConn has its own copy
	theirs = os.NewFile(uintptr(fds[1]), "monitor")
	if ours, err = net.FileConn(file); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return ours, theirs, nil
}

// connectPort connects to the port. On a restored machine that has to wait
// until it runs: data sent before is never seen.
func (q *qemu) connectPort() (net.Conn, error) {
	conn, err := net.Dial("unix", q.socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest's port: %w", err)
	}
	os.RemoveAll(q.dir) // nobody else may connect, and nothing stays behind if this process is killed
	return conn, nil
}

// kill ends QEMU, and returns when it is gone.
func (q *qemu) kill() {
	q.process.Kill()
	<-q.ended
}

// close ends QEMU and leaves nothing behind.
func (q *qemu) close() {
	q.kill()
	q.mon.conn.Close()
	q.console.Close()
	os.RemoveAll(q.dir)
}

// epitaph says how QEMU ended, by itself.
func (q *qemu) epitaph() string {
	text := "QEMU ended"
	if q.state != nil {
		text += " with " + q.state.String()
	}
	if said := q.stderr.String(); said != "" {
		text += ": " + said
	}
	return text
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte
}

const tailLimit = 8 << 10

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if excess := len(t.data) - tailLimit; excess > 0 {
		t.data = append(t.data[:0], t.data[excess:]...)
	}
	return len(b), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.data))
}
