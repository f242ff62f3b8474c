package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What is known of a volume, kept beside its directory.
type volume struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"`
	// The node that it is attached to.
	Node string `json:"node"`
}

type store struct {
	directory string
}

func (s store) content(id string) string { return filepath.Join(s.directory, id) }
func (s store) notes(id string) string   { return filepath.Join(s.directory, id+".json") }

func (s store) get(id string) (*volume, error) {
	if strings.ContainsAny(id, "/") {
		return nil, status.Errorf(codes.NotFound, "there is no volume %q", id)
	}
	text, err := os.ReadFile(s.notes(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "there is no volume %q", id)
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	found := &volume{}
	return found, json.Unmarshal(text, found)
}

func (s store) put(changed *volume) error {
	text, err := json.Marshal(changed)
	if err == nil {
		err = os.MkdirAll(s.content(changed.ID), 0o777)
	}
	if err == nil {
		err = os.WriteFile(s.notes(changed.ID)+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(s.notes(changed.ID)+".new", s.notes(changed.ID))
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (s store) remove(id string) error {
	if err := os.RemoveAll(s.content(id)); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if err := os.Remove(s.notes(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (s store) all() []*volume {
	paths, _ := filepath.Glob(s.notes("*"))
	sort.Strings(paths)
	var found []*volume
	for _, path := range paths {
		if one, err := s.get(strings.TrimSuffix(filepath.Base(path), ".json")); err == nil {
			found = append(found, one)
		}
	}
	return found
}

// Nodes are known by a file that each makes when its driver starts.
func (s store) nodeFile(node string) string { return filepath.Join(s.directory, "nodes", node) }

func (s store) hasNode(node string) bool {
	_, err := os.Stat(s.nodeFile(node))
	return err == nil
}

func (s store) addNode(node string) error {
	err := os.MkdirAll(filepath.Dir(s.nodeFile(node)), 0o755)
	if err == nil {
		err = os.WriteFile(s.nodeFile(node), nil, 0o644)
	}
	return err
}
