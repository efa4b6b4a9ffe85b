// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/cni"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/agent/ipam"
	"github.com/weirnet/weir/model"
)

// serve answers on the socket.
func (a *Agent) serve(ctx context.Context) error {
	listener, err := listenUnix(ctx, a.opts.Paths.socket())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: a.handler(), BaseContext: func(net.Listener) context.Context { return ctx }}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // requests see that ctx has ended
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the socket: %w", err)
	}
	return nil
}

// listenUnix takes the place of a socket that nobody listens to any more.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the socket to root: %w", err), listener.Close())
	}
	return listener, nil
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathStatus, answer(func(*http.Request) (any, error) { return a.Status(), nil }))
	mux.HandleFunc("GET "+api.PathHealthy, answer(a.pluginStatus))
	mux.HandleFunc("GET "+api.PathEndpoints, answer(func(*http.Request) (any, error) { return a.endpoints(), nil }))
	mux.HandleFunc("POST "+api.PathEndpoints, answer(a.addEndpoint))
	mux.HandleFunc("GET "+api.PathEndpoint+"{id}/{ifname}", answer(a.getEndpoint))
	mux.HandleFunc("DELETE "+api.PathEndpoint+"{id}/{ifname}", answer(a.deleteEndpoint))
	mux.HandleFunc("POST "+api.PathReady+"{id}/{ifname}", answer(a.connectEndpoint))
	mux.HandleFunc("POST "+api.PathGC, answer(a.collectGarbage))
	mux.HandleFunc("GET "+api.PathIdentities, answer(func(*http.Request) (any, error) { return a.listIdentities(), nil }))
	mux.HandleFunc("GET "+api.PathPolicies, answer(func(*http.Request) (any, error) { return a.listPolicies(), nil }))
	mux.HandleFunc("GET "+api.PathServices, answer(func(*http.Request) (any, error) { return a.listServices(), nil }))
	mux.HandleFunc("GET "+api.PathMonitor, a.serveMonitor)
	return mux
}

// answer makes a handler of a function that gives an answer or an error.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			code := codeOf(err)
			w.WriteHeader(code)
			body = api.Error{Message: err.Error(), Again: code >= http.StatusInternalServerError}
		}
		// Who asked and is gone is no concern of ours.
		_ = json.NewEncoder(w).Encode(body)
	}
}

func codeOf(err error) int {
	switch {
	case errors.Is(err, endpoints.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, endpoints.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ipam.ErrExhausted), errors.Is(err, ipam.ErrNoPrefix):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Status says how the agent is, and how full its tables are.
func (a *Agent) Status() api.Status {
	a.countFill()
	return a.summary()
}

// summary is how the agent is. What has to be counted is as it was counted last.
func (a *Agent) summary() api.Status {
	watching, since := a.source.Errors()
	list := a.store.List()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	if s.NotReady == "" && !s.Ready {
		s.NotReady = "the cluster's objects are not read yet: if it stays so, look whether the API server is reached"
	}
	s.Endpoints.Known, s.Endpoints.TakenOver = len(list), 0
	for i := range list {
		if list[i].TakenOver {
			s.Endpoints.TakenOver++
		}
	}
	s.Refused = append([]api.Refused{}, s.Refused...)
	s.Errors = slices.Collect(maps.Values(a.problems))
	for kind, err := range watching {
		s.Errors = append(s.Errors, api.Problem{What: "watch " + kind, Error: err.Error(), Since: since[kind]})
	}
	slices.SortFunc(s.Errors, func(x, y api.Problem) int { return strings.Compare(x.What, y.What) })
	if s.Errors == nil {
		s.Errors = []api.Problem{}
	}
	return s
}

var errNotReady = errors.New("the agent is not ready")

func (a *Agent) pluginStatus(*http.Request) (any, error) {
	if s := a.summary(); !s.Ready {
		return nil, fmt.Errorf("%w: %s", errNotReady, s.NotReady)
	}
	return struct{}{}, nil
}

// endpoints gives them with what the datapath has of them.
func (a *Agent) endpoints() []api.Endpoint {
	list := a.store.List()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range list {
		a.complete(&list[i])
	}
	return list
}

// complete is called with mu held.
func (a *Agent) complete(e *api.Endpoint) {
	in, found := a.inForce[api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}]
	if found && in.ifindex == e.Ifindex {
		e.Ready, e.Identity, e.Policy = true, uint32(in.identity), in.ruleSet
	}
}

func read(r *http.Request, into any) error {
	const most = 16 << 20
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most)).Decode(into); err != nil {
		return fmt.Errorf("%w: the body is not what %s takes: %w", endpoints.ErrInvalid, r.URL.Path, err)
	}
	return nil
}

func at(r *http.Request) (api.Attachment, error) {
	at := api.Attachment{ContainerID: r.PathValue("id"), IfName: r.PathValue("ifname")}
	return at, endpoints.Check(at)
}

func (a *Agent) addEndpoint(r *http.Request) (any, error) {
	var req api.EndpointRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	s := a.summary()
	if s.MTU == 0 {
		return nil, fmt.Errorf("give Pod %s/%s an address: %w: %s", req.PodNamespace, req.PodName, errNotReady, s.NotReady)
	}
	if err := endpoints.Check(api.Attachment{ContainerID: req.ContainerID, IfName: req.IfName}); err != nil {
		return nil, err
	}
	// What is asked for again is not to be deleted any more.
	a.deleting.Lock()
	defer a.deleting.Unlock()
	if err := os.Remove(filepath.Join(a.deletions(), req.ContainerID+"-"+req.IfName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("give Pod %s/%s an address: forget its deletion: %w", req.PodNamespace, req.PodName, err)
	}
	return a.store.Add(req, model.Gateways(), s.MTU)
}

func (a *Agent) getEndpoint(r *http.Request) (any, error) {
	at, err := at(r)
	if err != nil {
		return nil, err
	}
	e, err := a.store.Get(at)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.complete(&e)
	return e, nil
}

// connectEndpoint answers when the datapath has an endpoint. It waits for no pass
// that applies the rest of the cluster.
func (a *Agent) connectEndpoint(r *http.Request) (any, error) {
	at, err := at(r)
	if err != nil {
		return nil, err
	}
	var wired api.Wired
	if err := read(r, &wired); err != nil {
		return nil, err
	}
	e, err := a.store.Wire(at, wired.Ifindex)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.opts.Patience)
	defer cancel()
	turned := a.await(at)
	defer a.awaitNoMore(at)
	a.hurry()
	for {
		select {
		case <-ctx.Done():
			return nil, a.whyNot(&e)
		case <-turned:
		}
		a.mu.Lock()
		turned = a.turned
		a.complete(&e)
		a.mu.Unlock()
		if e.Ready {
			return e, nil
		}
	}
}

// whyNot says what keeps an endpoint out of the datapath.
func (a *Agent) whyNot(e *api.Endpoint) error {
	pod := model.Ref{Kind: "Pod", Namespace: e.PodNamespace, Name: e.PodName}
	name, space := pod.Key(), model.Ref{Kind: "Namespace", Name: e.PodNamespace}
	s := a.summary()
	for _, refused := range s.Refused {
		if refused.Object == pod || refused.Object == space {
			return fmt.Errorf("connect Pod %s: %s: %s", name, refused.Place(), refused.Problem)
		}
	}
	for _, problem := range s.Errors {
		return fmt.Errorf("connect Pod %s: %s: %s", name, problem.What, problem.Error)
	}
	if !s.Ready {
		return fmt.Errorf("connect Pod %s: %w: %s", name, errNotReady, s.NotReady)
	}
	return fmt.Errorf("connect Pod %s: the API has no such pod on Node %s within %s: it may be deleted already", name, a.opts.Node, a.opts.Patience)
}

func (a *Agent) deleteEndpoint(r *http.Request) (any, error) {
	at, err := at(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.forgetAsked(at)
}

// forgetAsked takes an endpoint away that the runtime wants no more. The runtime may
// have its own record of it for a moment still: nobody is connected anew by that.
func (a *Agent) forgetAsked(at api.Attachment) error {
	a.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(a.deleted, func(_ string, since time.Time) bool { return now.Sub(since) > lostPatience })
	a.deleted[at.ContainerID] = now
	a.mu.Unlock()
	return a.forget(at)
}

// isDeleted is whether the runtime has just had a container's endpoint taken away.
func (a *Agent) isDeleted(container string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	since, found := a.deleted[container]
	return found && time.Since(since) <= lostPatience
}

// forget takes an endpoint away: the device first, so that whoever has its
// addresses next is not mistaken for it.
func (a *Agent) forget(at api.Attachment) error {
	device, ifindex := endpoints.Device(at), 0
	if e, err := a.store.Get(at); err == nil {
		device, ifindex = e.HostDevice, e.Ifindex // which another plugin may have made
	}
	if err := cni.RemoveDevice(device); err != nil {
		return err
	}
	if err := a.store.Delete(at); err != nil {
		return err
	}
	a.leaveAhead(at, ifindex)
	a.stale.Store(true)
	a.kick()
	return nil
}

func (a *Agent) collectGarbage(r *http.Request) (any, error) {
	var req api.GCRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	valid := map[api.Attachment]bool{}
	for _, at := range req.Valid {
		valid[at] = true
	}
	var errs []error
	for _, e := range a.store.List() {
		// What was taken over goes with its device: the runtime may count it
		// to the network of its former plugin.
		if at := (api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}); !valid[at] && !e.TakenOver {
			a.log.Info("the runtime does not know of an endpoint: it goes", "pod", e.PodNamespace+"/"+e.PodName, "container", e.ContainerID)
			errs = append(errs, a.forget(at))
		}
	}
	return struct{}{}, errors.Join(errors.Join(errs...), a.removeOrphans())
}

// removeOrphans deletes pods' devices that nothing is recorded of.
func (a *Agent) removeOrphans() error {
	local, err := a.look()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range a.store.List() {
		known[e.HostDevice] = true
	}
	var errs []error
	for name := range local.links {
		if isPodDevice(name) && !known[name] {
			errs = append(errs, cni.RemoveDevice(name))
		}
	}
	return errors.Join(errs...)
}

// settledAfter is more than two changes of a directory may have the same time: that
// of the kernel's clock tick.
const settledAfter = 50 * time.Millisecond

// acceptDeletions does what the plugin was asked for while no agent was there,
// or none that answered in time. Where nothing has come since it read the directory
// last, it does not read it.
func (a *Agent) acceptDeletions() {
	dir := a.deletions()
	at, err := os.Stat(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		a.report("read deletions", err)
		return
	}
	if at.ModTime().Equal(a.deletionsRead) {
		return
	}
	a.deletionsRead = time.Time{}
	files, err := os.ReadDir(dir)
	if a.report("read deletions", err); err == nil && time.Since(at.ModTime()) > settledAfter {
		a.deletionsRead = at.ModTime()
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		if filepath.Ext(path) == ".new" {
			continue // it is being written
		}
		if err := a.acceptDeletion(path); err != nil {
			a.log.Warn("a deletion is lost", "file", path, "error", err)
		}
	}
}

// acceptDeletion does one, unless the endpoint was asked for again.
func (a *Agent) acceptDeletion(path string) error {
	a.deleting.Lock()
	defer a.deleting.Unlock()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var at api.Attachment
	if err == nil {
		err = json.Unmarshal(data, &at)
	}
	if err == nil && endpoints.Check(at) == nil {
		err = a.forgetAsked(at)
	}
	return errors.Join(err, os.Remove(path))
}

func (a *Agent) deletions() string { return filepath.Join(a.opts.Paths.StateDir, "deletions") }

// forgetGone forgets endpoints whose devices went with their pods or with a
// reboot.
func (a *Agent) forgetGone() {
	local, err := a.look()
	if err != nil {
		a.report("look at the node's devices", err)
		return
	}
	for _, e := range a.store.List() {
		if e.Ifindex != 0 && local.links[e.HostDevice] == nil {
			a.log.Info("an endpoint's device is gone: so is the endpoint", "pod", e.PodNamespace+"/"+e.PodName)
			a.report("forget an endpoint", a.forget(api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}))
		}
	}
}
