//! Groups of workspaces. Each has workers and a queue of its own.

use super::WorkspaceId;
use serde::Deserialize;

/// The group of all workspaces that no other group names, and of runs without a workspace.
pub const DEFAULT_GROUP: &str = "default";

/// A group of workspaces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceGroup {
    pub name: String,
    pub workspaces: Vec<WorkspaceId>,
}

/// All groups but the default one. The configuration sees to it that no workspace is in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct WorkspaceGroups(Vec<WorkspaceGroup>);

/// Which workspaces a group has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMembers {
    /// The ids of its workspaces; of the default group those that it does not have.
    pub listed: Vec<i64>,
    /// Whether it has the listed workspaces. The default group has all others.
    pub has_listed: bool,
}

impl WorkspaceGroups {
    /// Makes groups of names and workspaces.
    pub fn new(groups: Vec<WorkspaceGroup>) -> Self {
        Self(groups)
    }

    /// Returns whether all workspaces are in the default group.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of all groups, first the default one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let named = self.0.iter().map(|group| group.name.as_str());
        std::iter::once(DEFAULT_GROUP).chain(named)
    }

    /// Returns the name of the workspace's group.
    pub fn of(&self, workspace: WorkspaceId) -> &str {
        let mut groups = self.0.iter();
        let group = groups.find(|group| group.workspaces.contains(&workspace));
        group.map_or(DEFAULT_GROUP, |group| group.name.as_str())
    }

    /// Returns which workspaces the group of this name has. `None`: there are no groups, so it has all.
    pub fn members(&self, name: &str) -> Option<GroupMembers> {
        if self.is_empty() {
            return None;
        }
        let has_listed = name != DEFAULT_GROUP;
        let groups = self.0.iter();
        let listed = groups.filter(|group| !has_listed || group.name == name);
        let listed = listed.flat_map(|group| group.workspaces.iter().map(|id| id.0));
        Some(GroupMembers {
            listed: listed.collect(),
            has_listed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workspace_is_in_exactly_one_group() {
        let group = |name: &str, ids: &[i64]| WorkspaceGroup {
            name: name.to_owned(),
            workspaces: ids.iter().copied().map(WorkspaceId).collect(),
        };
        let groups = WorkspaceGroups::new(vec![group("eu", &[1, 2]), group("large", &[3])]);
        let names: Vec<&str> = groups.names().collect();
        assert_eq!(names, [DEFAULT_GROUP, "eu", "large"]);
        for (id, name) in [(1, "eu"), (2, "eu"), (3, "large"), (4, DEFAULT_GROUP)] {
            assert_eq!(groups.of(WorkspaceId(id)), name);
            let having = names.iter().filter(|name| {
                let members = groups.members(name).unwrap();
                members.listed.contains(&id) == members.has_listed
            });
            assert_eq!(having.collect::<Vec<_>>(), [&name]);
        }
        assert_eq!(WorkspaceGroups::default().members(DEFAULT_GROUP), None);
    }
}
