// SPDX-License-Identifier: Apache-2.0

package install

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// DefaultImage is the image's name where nobody gives another.
const DefaultImage = "weir:dev"

// ErrNotStatic is of a program that cannot run in an image of its own: it asks
// for a loader and libraries.
var ErrNotStatic = errors.New("the program is not static: build it by 'make build', or with CGO_ENABLED=0")

// Image is a container image with a single file in it, /weir. It is made of
// the program's bytes and of nothing else, not of the time: the same program
// gives the same image.
type Image struct {
	image v1.Image
}

// NewImage makes the image of the static Linux program at path. It fails with
// ErrNotStatic.
func NewImage(path string) (*Image, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	if err := checkStatic(program); err != nil {
		return nil, fmt.Errorf("make image of %s: %w", path, err)
	}
	layer, err := layerOf(program)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("add layer to image: %w", err)
	}
	image, err = mutate.ConfigFile(image, configOf(layer))
	if err != nil {
		return nil, fmt.Errorf("describe image: %w", err)
	}
	return &Image{image}, nil
}

// configOf says how the image's program is started. It names no time of
// creation, and its history is the layer's alone.
func configOf(layer v1.Layer) *v1.ConfigFile {
	config := &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: v1.Config{
			Entrypoint: []string{"/weir"},
			WorkingDir: "/",
			Labels:     map[string]string{"org.opencontainers.image.title": "weir"},
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	if id, err := layer.DiffID(); err == nil {
		config.RootFS.DiffIDs = []v1.Hash{id}
	}
	return config
}

func checkStatic(program []byte) error {
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("read ELF header: %w", err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return ErrNotStatic
		}
	}
	return nil
}

func layerOf(program []byte) (v1.Layer, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "weir", Mode: 0o755, Size: int64(len(program)), Format: tar.FormatPAX}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
}

// CheckImage refuses what is no reference to an image: NAME[:TAG][@DIGEST].
func CheckImage(ref string) error {
	if _, err := name.ParseReference(ref); err != nil {
		return fmt.Errorf("name image: %w: give one like %s", err, DefaultImage)
	}
	return nil
}

// Digest is the image's, as a registry names it.
func (i *Image) Digest() (string, error) {
	digest, err := i.image.Digest()
	return digest.String(), err
}

// WriteFile writes the image as an archive, as 'docker load' and 'kind load
// image-archive' take it. It leaves no half of a file when it fails.
func (i *Image) WriteFile(path, tag string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("name image: %w: give one like %s", err, DefaultImage)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".weir-image-*")
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer os.Remove(file.Name())
	err = errors.Join(tarball.Write(ref, i.image, file), file.Chmod(0o644), file.Close())
	if err != nil {
		return fmt.Errorf("write image %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}

// Push uploads the image to a registry, as whoever the configuration of docker
// or podman is logged in.
func (i *Image) Push(ctx context.Context, ref string) error {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return fmt.Errorf("name image: %w", err)
	}
	if err := remote.Write(tag, i.image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push image %s: %w", ref, err)
	}
	return nil
}
