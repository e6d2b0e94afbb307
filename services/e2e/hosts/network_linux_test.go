package hosts_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// insideVariable is set in the process that has namespaces of its own.
const insideVariable = "CARILLON_HOSTS_INSIDE"

// outside runs this program again, with the same flags, in namespaces of its own: of the
// network, of mounts and of processes. All that it makes there, hosts and processes, ends
// with it, however it ends: the kernel sees to that, and so do two runs not see each other.
func outside(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Fatal("hosts are made of network namespaces, which takes root")
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=yes")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread() // with which Pdeathsig would come
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
}

// settle makes the namespaces fit to live in.
func settle() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	// ip keeps the names of namespaces in /run, and nginx its logs where Debian has them.
	for _, m := range [][2]string{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", "/var/log"}} {
		if err := syscall.Mount(m[0], m[1], m[0], syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	return os.Mkdir("/var/log/nginx", 0o755)
}

// The network: every host is at one bridge, and who uses the system is where the bridge is.
const (
	bridge        = "br0"
	clientAddress = "10.66.0.1"
	firstAddress  = 10
)

// network is a bridge with hosts at it. Its methods may not be called concurrently.
type network struct {
	addresses map[string]string // by the name of a host
	wires     map[string]*wire  // slow ones, by the name of a host
}

// newNetwork makes the bridge, and tells everybody the names of hosts that are to come.
func newNetwork(dir string, names ...string) (*network, error) {
	n := &network{addresses: map[string]string{}, wires: map[string]*wire{}}
	hosts := "127.0.0.1 localhost\n"
	for i, name := range names {
		n.addresses[name] = fmt.Sprintf("10.66.0.%d", firstAddress+i)
		hosts += n.addresses[name] + " " + name + "\n"
	}
	file := filepath.Join(dir, "hosts")
	if err := os.WriteFile(file, []byte(hosts), 0o644); err != nil {
		return nil, err
	}
	if err := syscall.Mount(file, "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("names of hosts: %w", err)
	}
	// A cable that is not at the bridge must not find another way to the address of the
	// clients.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0); err != nil {
		return nil, err
	}
	return n, ip(
		"link set lo up",
		"link add "+bridge+" type bridge",
		"addr add "+clientAddress+"/24 dev "+bridge,
		"link set "+bridge+" up",
	)
}

// ip runs commands of iproute2.
func ip(commands ...string) error {
	for _, c := range commands {
		if output, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, output)
		}
	}
	return nil
}

// cable is the bridge's end of a host's link.
func cable(host string) string { return "v-" + host }

// build makes a host, and puts its cable in. One that takes the place of another has its
// link address too: where hosts are replaced, the network knows the new one at once.
func (n *network) build(host string) error {
	return ip(
		"netns add "+host,
		"link add "+cable(host)+" type veth peer name eth0 address "+linkAddress(n.addresses[host])+" netns "+host,
		"link set "+cable(host)+" master "+bridge,
		"link set "+cable(host)+" up",
		"-n "+host+" link set lo up",
		"-n "+host+" addr add "+n.addresses[host]+"/24 dev eth0",
		"-n "+host+" link set eth0 up",
	)
}

// linkAddress is one that belongs to an address: of those that anybody may give out (02).
func linkAddress(address string) string {
	a := netip.MustParseAddr(address).As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])
}

// demolish ends a host in which nothing runs any more.
func (n *network) demolish(host string) error {
	// The cable goes with the namespace, but not before the kernel has got to that.
	return errors.Join(n.hasten(host), ip("link del "+cable(host), "netns del "+host))
}

func (n *network) plug(host string) error {
	return ip("link set " + cable(host) + " master " + bridge)
}

// swallow has everything that a host sends, or that is sent to it, vanish: nobody is told.
func (n *network) swallow(host string) error {
	return ip("link set " + cable(host) + " nomaster")
}

// down ends the link of a host, where it can see that; up mends it.
func (n *network) down(host string) error { return ip("-n " + host + " link set eth0 down") }

func (n *network) up(host string) error { return ip("-n " + host + " link set eth0 up") }

// slow puts a long, bad wire between a host and the bridge; hasten takes it out.
func (n *network) slow(host string, damage wireDamage) error {
	near, far := "w-"+host, "x-"+host
	err := ip(
		"link set "+cable(host)+" nomaster",
		"link add "+near+" type veth peer name "+far,
		"link set "+near+" up", "link set "+far+" up",
		"link set "+far+" master "+bridge,
	)
	if err != nil {
		return err
	}
	n.wires[host], err = layWire(cable(host), near, damage)
	return err
}

func (n *network) hasten(host string) error {
	w := n.wires[host]
	if w == nil {
		return nil
	}
	delete(n.wires, host)
	return errors.Join(w.close(), ip("link del w-"+host), n.plug(host))
}
