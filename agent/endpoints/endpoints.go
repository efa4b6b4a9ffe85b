// SPDX-License-Identifier: Apache-2.0

// Package endpoints keeps, durably, which interface of which pod a node has,
// and with what addresses.
//
// It makes no devices and fills no tables. Its one invariant: an endpoint is on
// disk before anybody is told of its addresses, and they are free again only
// when it is off the disk.
package endpoints

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/ipam"
)

// ErrNotFound is an endpoint that is not recorded.
var ErrNotFound = errors.New("there is no such endpoint")

// ErrInvalid is a request that no repetition makes good.
var ErrInvalid = errors.New("invalid request")

// Store is the endpoints of a node. Its methods may be called by several
// goroutines.
type Store struct {
	Pool ipam.Pool

	dir string
	now func() time.Time

	mu       sync.Mutex
	known    map[api.Attachment]api.Endpoint
	revision uint64
}

// Open reads the endpoints below a state directory, which it makes if it is
// not there. A record that cannot be read is moved aside, with the suffix
// .broken, and is among the errors that come with the Store.
func Open(stateDir string) (*Store, error) {
	s := &Store{dir: filepath.Join(stateDir, "endpoints"), now: time.Now, known: map[api.Attachment]api.Endpoint{}, revision: 1}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of endpoints: %w", err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of endpoints: %w", err)
	}
	var read []api.Endpoint
	var errs []error
	for _, file := range files {
		path := filepath.Join(s.dir, file.Name())
		switch filepath.Ext(path) {
		case ".json":
			e, err := readRecord(path)
			if err != nil {
				errs = append(errs, err, os.Rename(path, path+".broken"))
				continue
			}
			read = append(read, e)
		case ".new": // of a write that was interrupted
			errs = append(errs, os.Remove(path))
		}
	}
	// The pool goes on behind what was given last.
	slices.SortFunc(read, func(a, b api.Endpoint) int { return a.Created.Compare(b.Created) })
	for _, e := range read {
		if err := s.Pool.Hold(ownerOf(attachmentOf(&e)), e.Addresses); err != nil {
			errs = append(errs, fmt.Errorf("take over %s: %w", title(&e), err), os.Remove(s.path(attachmentOf(&e))))
			continue
		}
		s.known[attachmentOf(&e)] = e
	}
	return s, errors.Join(errs...)
}

func readRecord(path string) (api.Endpoint, error) {
	var e api.Endpoint
	data, err := os.ReadFile(path)
	if err != nil {
		return e, fmt.Errorf("read record of an endpoint: %w", err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("read record of an endpoint %s: %w: it is moved aside", path, err)
	}
	if err := check(&e.EndpointRequest); err != nil {
		return e, fmt.Errorf("read record of an endpoint %s: %w: it is moved aside", path, err)
	}
	return e, nil
}

// Add gives an endpoint addresses and records it. The same request again gives
// what is recorded. It fails with ErrInvalid, ipam.ErrExhausted or
// ipam.ErrNoPrefix.
func (s *Store) Add(req api.EndpointRequest, gateways []netip.Addr, mtu int) (api.Endpoint, error) {
	if err := check(&req); err != nil {
		return api.Endpoint{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := api.Attachment{ContainerID: req.ContainerID, IfName: req.IfName}
	if e, again := s.known[at]; again {
		e.EndpointRequest, e.MTU = req, mtu
		return e, s.put(e)
	}
	addrs, err := s.Pool.Take(ownerOf(at))
	if err != nil {
		return api.Endpoint{}, err
	}
	return s.make(req, addrs, gateways, mtu)
}

// Restore records an endpoint whose record and devices are lost, with the
// addresses that it had. It fails if an address is another's.
func (s *Store) Restore(req api.EndpointRequest, addrs, gateways []netip.Addr, mtu int) (api.Endpoint, error) {
	if err := check(&req); err != nil {
		return api.Endpoint{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Pool.Hold(ownerOf(api.Attachment{ContainerID: req.ContainerID, IfName: req.IfName}), addrs); err != nil {
		return api.Endpoint{}, err
	}
	return s.make(req, addrs, gateways, mtu)
}

// make records an endpoint with addresses that it holds. It is called with mu
// held.
func (s *Store) make(req api.EndpointRequest, addrs, gateways []netip.Addr, mtu int) (api.Endpoint, error) {
	at := api.Attachment{ContainerID: req.ContainerID, IfName: req.IfName}
	e := api.Endpoint{
		EndpointRequest: req, Addresses: addrs, MTU: mtu, Created: s.now().UTC(),
		HostDevice: Device(at), HostMAC: macOf(at, 1).String(), PodMAC: macOf(at, 2).String(),
	}
	for _, gateway := range gateways {
		if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == gateway.Is4() }) {
			e.Gateways = append(e.Gateways, gateway)
		}
	}
	if err := s.put(e); err != nil {
		s.Pool.Release(ownerOf(at))
		return api.Endpoint{}, err
	}
	return e, nil
}

// TakeOver records an endpoint that was connected by somebody else, with the
// addresses and the device that it has. It fails if an address is another's.
func (s *Store) TakeOver(e api.Endpoint) error {
	if err := check(&e.EndpointRequest); err != nil {
		return err
	}
	e.TakenOver, e.Created = true, s.now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := ownerOf(attachmentOf(&e))
	if err := s.Pool.Hold(owner, e.Addresses); err != nil {
		return err
	}
	if err := s.put(e); err != nil {
		s.Pool.Release(owner)
		return err
	}
	return nil
}

// Wire records that an endpoint's devices are made.
func (s *Store) Wire(at api.Attachment, ifindex int) (api.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, found := s.known[at]
	if !found {
		return e, fmt.Errorf("wire endpoint %s %s: %w: ask for its addresses first", at.ContainerID, at.IfName, ErrNotFound)
	}
	e.Ifindex = ifindex
	return e, s.put(e)
}

// Get gives an endpoint, or ErrNotFound.
func (s *Store) Get(at api.Attachment) (api.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, found := s.known[at]
	if !found {
		return e, fmt.Errorf("endpoint %s %s: %w", at.ContainerID, at.IfName, ErrNotFound)
	}
	return e, nil
}

// Revision counts changes of what List gives. It is never 0.
func (s *Store) Revision() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// List gives all endpoints, the oldest first.
func (s *Store) List() []api.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]api.Endpoint, 0, len(s.known))
	for _, e := range s.known {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b api.Endpoint) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ContainerID+a.IfName, b.ContainerID+b.IfName)
	})
	return list
}

// Delete forgets an endpoint and frees its addresses. One that is not there is
// no error.
func (s *Store) Delete(at api.Attachment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.known[at]; !found {
		return nil
	}
	if err := os.Remove(s.path(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of endpoint %s: %w", at.ContainerID, err)
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	delete(s.known, at)
	s.revision++
	s.Pool.Release(ownerOf(at))
	return nil
}

// put writes a record so that a crash leaves the old one or the new one.
func (s *Store) put(e api.Endpoint) error {
	e.Ready, e.Identity, e.Policy = false, 0, ""
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode %s: %w", title(&e), err)
	}
	at := attachmentOf(&e)
	if err := replaceFile(s.path(at), data); err != nil {
		return fmt.Errorf("record %s: %w", title(&e), err)
	}
	s.known[at] = e
	s.revision++
	return nil
}

func replaceFile(path string, data []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s *Store) path(at api.Attachment) string {
	return filepath.Join(s.dir, at.ContainerID+"-"+at.IfName+".json")
}

// An ID becomes part of a file's name; the specification of CNI allows no more.
var containerID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,127}$`)

const longestIfName = 15

func check(req *api.EndpointRequest) error {
	switch {
	case !containerID.MatchString(req.ContainerID):
		return fmt.Errorf("%w: containerID %q: letters, digits, '_', '.' and '-', at most 128, are allowed", ErrInvalid, req.ContainerID)
	case req.IfName == "" || len(req.IfName) > longestIfName || req.IfName == "." || req.IfName == ".." || strings.ContainsAny(req.IfName, "/: \t\n"):
		return fmt.Errorf("%w: ifname %q is no name of a device: use 1 to %d characters without '/', ':' and spaces", ErrInvalid, req.IfName, longestIfName)
	case req.PodNamespace == "" || req.PodName == "":
		return fmt.Errorf("%w: podNamespace and podName are needed: the runtime gives them as K8S_POD_NAMESPACE and K8S_POD_NAME", ErrInvalid)
	}
	return nil
}

// Check says what is wrong with an attachment's names, by ErrInvalid.
func Check(at api.Attachment) error {
	return check(&api.EndpointRequest{ContainerID: at.ContainerID, IfName: at.IfName, PodNamespace: "any", PodName: "any"})
}

// DevicePrefix begins the names of the host's sides of pods' veth pairs.
const DevicePrefix = "weir"

// Device names the host's side of an attachment's veth pair.
func Device(at api.Attachment) string {
	sum := digest(at)
	return DevicePrefix + hex.EncodeToString(sum[:])[:longestIfName-len(DevicePrefix)]
}

// RecordedDevice names the host's side of an attachment by the record below a
// state directory, for whoever has no Store: the device of one that was taken
// over is named by another plugin. Without a record it is Device.
func RecordedDevice(stateDir string, at api.Attachment) string {
	s := &Store{dir: filepath.Join(stateDir, "endpoints")}
	if e, err := readRecord(s.path(at)); err == nil && e.HostDevice != "" {
		return e.HostDevice
	}
	return Device(at)
}

// macOf is locally administered, and the same whenever it is asked for.
func macOf(at api.Attachment, side byte) net.HardwareAddr {
	sum := digest(at)
	return net.HardwareAddr{0x02, 0x57, side, sum[29], sum[30], sum[31]}
}

func digest(at api.Attachment) [sha256.Size]byte {
	return sha256.Sum256([]byte(at.ContainerID + "/" + at.IfName))
}

func attachmentOf(e *api.Endpoint) api.Attachment {
	return api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}
}

func ownerOf(at api.Attachment) string { return at.ContainerID + "/" + at.IfName }

func title(e *api.Endpoint) string {
	return fmt.Sprintf("endpoint of Pod %s/%s (%s)", e.PodNamespace, e.PodName, e.ContainerID)
}
